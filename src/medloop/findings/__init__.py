"""Images that may hold none, one or several findings: in, judged, audited and compared."""

"""What a person decides: the queue, the audit, the answers, and how well people agree."""

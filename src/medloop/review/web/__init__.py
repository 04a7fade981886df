"""The review app in the browser: server-rendered pages, and nothing from outside."""

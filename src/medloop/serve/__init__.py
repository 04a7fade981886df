"""The web app and API that label images with the model of a workspace; nothing is kept."""

"""What happens to images between reading and learning."""

"""What a person types. The only room that prints results or exits."""

"""What a person types: one module per command. Nothing heavy is imported at module level."""

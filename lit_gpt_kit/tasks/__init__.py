"""What a GPT is trained for: one LightningModule each."""

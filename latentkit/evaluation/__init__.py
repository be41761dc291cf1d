"""Pictures and decoded latents to the numbers that papers print: FID, Inception Score and their relatives."""

"""Generator, discriminator and fusion classifier of Fig. 3."""

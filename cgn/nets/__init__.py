"""Feature extractor, generator, discriminator and fusion classifier of Fig. 3."""

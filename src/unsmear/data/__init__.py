"""Pictures to learn from: blur synthesis, data sets, augmentation."""

"""ImageNet-1k (ILSVRC2012): straight from its archives, or as extracted folders."""

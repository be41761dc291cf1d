"""Each verb as a job: a configuration in, plain objects out. Nothing else in the package knows Hydra."""

"""ImageNet's archives, found, checked, noted and indexed; nothing is extracted unless asked.

    python -m latentkit.prepare                           the archives in data/
    python -m latentkit.prepare archives.train=FILE archives.val=FILE archives.devkit=FILE
    python -m latentkit.prepare extract=true              also outputs/datasets/imagenet1k_raw/{train,val}
    python -m latentkit.prepare allow_variant=true        archives that are not the official ones too
    python -m latentkit.prepare overwrite=true            archives that were read before too
    python -m latentkit.prepare dry_run=true              what would be read; touches nothing

Exit status: 0 done; 1 an archive is damaged or not the official one; 2 wrong usage; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("prepare", "latentkit.jobs.preparation.prepare")

if __name__ == "__main__":
    main()

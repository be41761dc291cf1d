"""An output against its pictures: every record and ledger against every file, each read once and whole.

    python -m latentkit.verify                                  the photo library's outputs
    python -m latentkit.verify dataset=imagenet dataset.split=train        latent shards
    python -m latentkit.verify dataset=folder dataset.root=PHOTOS [store=shards]
    python -m latentkit.verify mode=quick ...                   sizes and headers; of shards, six by sha256
    python -m latentkit.verify report=FILE                      every finding as JSON
    python -m latentkit.verify fix=true                         set the bad aside; encode redoes just that

Of a .npy a picture, what is not encoded yet is counted, not wrong; of shards it is wrong. Run it while
nobody writes there; fix=true sees to that. Exit status: 0 nothing is wrong (with fix=true: any more, but for
what the next encode does); 1 something is; 2 wrong usage; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("verify", "latentkit.jobs.upkeep.verify")

if __name__ == "__main__":
    main()

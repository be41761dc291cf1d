"""Complete pictures into tars for WebDataset, bucket by bucket.

    python -m latentkit.shard                                     data/derived to data/shards
    python -m latentkit.shard shard_size=500 bucket=[1024x1024]   one bucket; the others stay as they are
    python -m latentkit.shard shuffle=true seed=1                 in a random order that the seed decides
    python -m latentkit.shard dataset=folder dataset.root=PHOTOS  outputs/PHOTOS to outputs/PHOTOS/webdataset
    python -m latentkit.shard dry_run=true                        what would be done; touches nothing

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with damaged pictures left out; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("shard", "latentkit.jobs.upkeep.shard")

if __name__ == "__main__":
    main()

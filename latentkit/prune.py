"""What has no picture any more leaves the outputs, and can be put back.

    python -m latentkit.prune dry_run=true                     what would go, a line a thing on stdout
    python -m latentkit.prune                                  broken links, records and arrays of data/
    python -m latentkit.prune max_share=0.5                    when more than a fifth of anything may go
    python -m latentkit.prune restore=true                     put back what the last prune removed
    python -m latentkit.prune dataset=folder dataset.root=PHOTOS

Exit status: 0 done, or nothing to do; 1 refused or failed; 2 wrong usage; 130 interrupted: the next prune
puts back what this one took, and plans anew.
"""

from latentkit.jobs.command import command

main = command("prune", "latentkit.jobs.upkeep.prune")

if __name__ == "__main__":
    main()

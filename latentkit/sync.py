"""The approved photos of a crawler's list: originals to data/raw, links with a suffix to data/approved.

    python -m latentkit.sync                             what is missing, sixteen downloads at a time
    python -m latentkit.sync dry_run=true                what would be done; touches nothing
    python -m latentkit.sync limit=100                   only the first 100 entries of the list
    python -m latentkit.sync prune=true                  also remove what a list read to its end no longer has
    python -m latentkit.sync retry_quarantined=true      fetch again what was no whole picture
    python -m latentkit.sync base_url=URL dataset.raw=DIR dataset.root=DIR

Exit status: 0 done; 1 the list could not be read whole, or downloads failed; 2 wrong usage; 3 done, with
photos, names or conflicts in quarantine.jsonl; 130 interrupted. The same command goes on.
"""

from latentkit.jobs.command import command

main = command("sync", "latentkit.jobs.preparation.sync")

if __name__ == "__main__":
    main()

"""Stage 1 records, with inline embeddings, to Stage 2: a `.npy` a picture, and a contract on what is known.

    python -m latentkit.migrate                     the photo library's records, in data/derived
    python -m latentkit.migrate dry_run=true        what would be done; touches nothing
    python -m latentkit.migrate output_dir=DIR      another folder of records

The old records stay beside the new ones as ``<records>.stage1``. A second run changes nothing.

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with records, lines or arrays left out; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("migrate", "latentkit.jobs.upkeep.migrate")

if __name__ == "__main__":
    main()

"""Captions for the pictures that have none, written by a model.

    python -m latentkit.caption caption=openai                      gemma3:27b of Ollama on this machine
    python -m latentkit.caption caption=openai caption.url=http://HOST:8000/v1 caption.model=NAME
    python -m latentkit.caption caption=transformers                google/gemma-3-27b-it, 55 GB
    python -m latentkit.caption caption=transformers caption.model=FOLDER
    python -m latentkit.caption dataset=folder dataset.root=PHOTOS caption=openai
    python -m latentkit.caption caption=openai overwrite=true       anew what another model wrote
    python -m latentkit.caption caption=openai dry_run=true         how many; touches nothing

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with pictures in quarantine; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("caption", "latentkit.jobs.captioning.caption")

if __name__ == "__main__":
    main()

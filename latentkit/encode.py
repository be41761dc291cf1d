"""Pictures to latents and embeddings.

    python -m latentkit.encode                                           the demo: nothing to download
    python -m latentkit.encode dataset=folder dataset.root=PHOTOS        dinov3, flux_vae and t5 of a folder
    python -m latentkit.encode dataset=folder dataset.root=PHOTOS encoder=sd_vae store=shards output_dir=OUT
    python -m latentkit.encode dataset=crawlr vram=high                  the photo library
    python -m latentkit.encode dataset=imagenet vram=low                 ImageNet, from its archives
    python -m latentkit.encode dataset=crawlr caption=openai             first captions for what has none
    python -m latentkit.encode -m dataset=imagenet dataset.split=train,val
    python -m latentkit.encode dry_run=true ...                          what would be done; touches nothing

Exit status: 0 done; 1 failed; 2 wrong usage; 3 done, with pictures in quarantine; 130 interrupted.
"""

from latentkit.jobs.command import command

main = command("encode", "latentkit.jobs.encoding.encode")

if __name__ == "__main__":
    main()

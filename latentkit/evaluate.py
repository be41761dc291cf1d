"""Decoded latents, or any pictures, to FID, Inception Score and their relatives, in one pass.

    python -m latentkit.evaluate                                        the demo's latents, random weights
    python -m latentkit.evaluate dataset=imagenet                       val latents against val pictures
    python -m latentkit.evaluate generated=samples.npz reference=VIRTUAL_imagenet256_labeled.npz protocol=adm
    python -m latentkit.evaluate generated=latents.safetensors generated_scaled=true reference=val.npz
    python -m latentkit.evaluate generated=FOLDER reference=FOLDER metric=[fid,kid]
    python -m latentkit.evaluate -m generated=run1,run2,run3 reference=FILE      one table and one plot
    python -m latentkit.evaluate experiment=sdvae_rfid_imagenet         a published table

Exit status: 0 done; 1 failed; 2 wrong usage; 130 interrupted.
"""

from latentkit.jobs.command import command

_NOTHING = ("", "null", "''", '""')


def with_weights(arguments: list[str]) -> list[str]:
    """Add ``weights=pretrained`` to ``generated=PATH``, unless a word that decides on weights was typed too.

    The demo is the dataset then only because none was named, and its random weights were not meant.
    """
    words = [word.partition("=")[::2] for word in arguments if "=" in word]
    typed = {key.lstrip("+"): value for key, value in words}
    if typed.get("generated", "").lower() in _NOTHING or typed.keys() & {"weights", "dataset", "experiment"}:
        return arguments
    place = [word.lstrip("+").startswith("generated=") for word in arguments].index(True)
    return [*arguments[:place], "weights=pretrained", *arguments[place:]]


main = command("evaluate", "latentkit.jobs.evaluate.evaluate", with_weights)

if __name__ == "__main__":
    main()

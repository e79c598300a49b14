"""The words of the report, in a line each, for readers who do not know the field."""

from reg.operators import GAUSSIAN_KERNELS


def blur(name: str) -> str:
    """`k5: 3 pixels at 144°, 1.22 across`: the standard deviations of a Gaussian blur."""
    (major, minor), angle = GAUSSIAN_KERNELS[name]
    if major == minor:
        return f"{name}: {major:g} pixels"
    return f"{name}: {major:.3g} pixels at {angle:g}°, {minor:.3g} across"


WORDS = (
    (
        "D, the denoiser",
        "a network that removes Gaussian noise of a given strength σ. It knows what images look "
        "like, and serves every restoration task.",
    ),
    (
        "G, or ReG",
        "a network trained to be the gradient of the prior that belongs to D: which way an image "
        "must change to become more natural.",
    ),
    (
        "PnP-GD (ReG)",
        "the paper’s method, PnP-ReG: gradient descent that uses G. The plain step is that of the "
        "paper’s equation; elsewhere momentum and the metric of the task make it faster, and every "
        "iterate is kept within [0,1].",
    ),
    (
        "Curvature c",
        "what sets the step of PnP-GD, μ = 1/(σ²c): the greater, the shorter and the safer.",
    ),
    (
        "MAP residual",
        "how far D and G are from belonging to one prior: 0 for an exact pair, 1 for G = 0.",
    ),
    (
        "PnP-ADMM, PnP-HQS, PnP-PGD",
        "rivals that plug D into other iterations, in place of a proximal step: the alternating "
        "direction method of multipliers (Venkatakrishnan, Bouman and Wohlberg 2013), half-"
        "quadratic splitting as in DPIR (Zhang et al. 2022), and proximal gradient descent "
        "(Kamilov, Mansour and Wohlberg 2017). The first two keep every iterate within [0,1] as "
        "PnP-GD does; PnP-ADMM, unbounded, does not, as published.",
    ),
    (
        "RED",
        "gradient descent with the residual x − D(x) in place of G(x) (Romano, Elad and Milanfar "
        "2017).",
    ),
    (
        "GS-PnP",
        "a plug-and-play method whose denoiser is built to be a gradient step, so that its "
        "objective falls at every iteration (Hurault, Leclaire and Papadakis 2022).",
    ),
    (
        "TV",
        "total variation, a classical prior without any network (Rudin, Osher and Fatemi 1992, "
        "minimised by the method of Chambolle and Pock 2011).",
    ),
    (
        "PSNR",
        "peak signal-to-noise ratio: closeness to the true image in decibels (dB); higher is "
        "better.",
    ),
    ("SSIM", "similarity of local structure to the true image, 1 at best."),
    (
        "95 % interval",
        "where the mean would lie for other choices of test images like these, by resampling them "
        "(bootstrap), and longer where images are few, by Student’s t, so that it may pass them "
        "all.",
    ),
    (
        "Paired",
        "differences are taken on each image first, so that what makes an image hard cancels.",
    ),
    (
        "Squared step",
        "mean squared difference of consecutive iterates; it falls to nothing where a method "
        "converges. A decade is a factor of 10.",
    ),
    ("σₙ 2.55", "standard deviation of the noise in the measurement, on the scale 0 to 255."),
    (
        "Deblurring k0 to k7",
        "which Gaussian blur, by its standard deviation: k0 to k3 are round and grow, k4 to k7 are "
        f"longer in one direction. {'; '.join(blur(name) for name in ('k3', 'k5', 'k7'))} (angles "
        "with x to the right and y down).",
    ),
    ("Super-resolution ×2", "recover an image from one of half the width and height."),
    ("Inpainting 20 %", "only 20 % of the pixels are known, chosen at random."),
    (
        "×8, ×1",
        "the image is turned or mirrored for the network, another of eight ways at every "
        "iteration, or always shown as it is; named where it is not a method's usual.",
    ),
    ("Oracle", "a choice that needs the true image; shown for information only."),
)

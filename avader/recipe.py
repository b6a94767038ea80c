"""What is learned, and how: preprocessing, network, mixture, schedule, optimiser.

Every field has its meaning and unit; `avader train --help` prints them. A recipe is a TOML file
with these sections (see avader/recipes/). Legend: B images, C bands, H W pixels, D latent
dimensions, K components.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from avader.ranges import APART, Range, extremes

Positive = Annotated[int, Field(gt=0)]
Kernel = Annotated[int, Field(gt=0, le=31, multiple_of=1)]


class Section(BaseModel):
    """A section of settings: unknown names are refused, values cannot change once checked."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False
    )


class Preprocessing(Section):
    """How a cutout's bytes become model-ready pixels in [0, 1]."""

    crop: int = Field(0, ge=0)
    """Side of the central square that is kept, px of the input; 0 keeps the whole cutout."""
    extensions: tuple[str, ...] = ()
    """FITS extensions that hold the bands, in order, by EXTNAME or number (0: the primary); empty
    takes the first image, a plane or a cube. MASK is always the mask."""
    bands: tuple[int, ...] = ()
    """Input bands to keep, by number from 0 (RGB images: 0 1 2); empty keeps all."""
    weights: tuple[float, ...] = ()
    """One weight per kept band: their weighted sum is the one output band; empty keeps the
    bands apart."""
    size: int = Field(64, ge=8, le=4096)
    """Side of the output, px."""
    resample: Literal["nearest", "box", "bilinear", "bicubic", "lanczos", "bilinear-unfiltered"] = (
        "bilinear"
    )
    """Resampling kernel; widened when it reduces, but for nearest and bilinear-unfiltered."""
    orientation: Literal["sky", "canonical"] = "sky"
    """sky: as the survey gives it. canonical: turned so that the central source's major axis lies
    along x, and flipped by where its light is; angle and flips are kept as columns."""
    source_mask: bool = False
    """Keep which pixels belong to the central source, as the columns source_mask and
    mask_fraction."""
    limits: Literal["minmax", "percentiles", "fixed"] = "minmax"
    """What becomes 0 and 1: each image's least and greatest value, its percentiles, or one
    fixed range of flux. All bands of an image share their limits."""
    percentiles: tuple[float, float] = (0.5, 99.5)
    """The two percentiles, percent, for limits = percentiles."""
    fixed: tuple[float, float] = (0.0, 255.0)
    """Lower and upper limit, input flux units, for limits = fixed."""
    stretch: Literal["linear", "asinh", "log"] = "linear"
    """Curve between the limits, u in [0, 1]: u, asinh(u/s)/asinh(1/s), log(1+u/s)/log(1+1/s)."""
    softening: float = Field(0.1, ge=1e-9)
    """s of the stretch, as a fraction of the range between the limits."""
    missing: Literal["reject", "median", "zero"] = "reject"
    """NaN and masked pixels: refuse the cutout, or fill with its median or with 0 flux."""
    max_missing: float = Field(0.1, ge=0, le=1)
    """Greatest fraction of missing pixels that is filled; above it the cutout is a reject."""
    dtype: Literal["uint8", "float16"] = "uint8"
    """Type of the stored pixels: uint8 holds round(255 x), float16 holds x."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weights and self.bands and len(self.weights) != len(self.bands):
            raise ValueError(
                f"weights: wanted one per kept band ({len(self.bands)}), got {len(self.weights)}"
            )
        if min(self.bands, default=0) < 0 or len(set(self.bands)) < len(self.bands):
            raise ValueError(f"bands: wanted distinct numbers from 0, got {list(self.bands)}")
        if "" in self.extensions or len(set(self.extensions)) < len(self.extensions):
            raise ValueError(
                f"extensions: wanted distinct names or numbers, got {list(self.extensions)}"
            )
        for name in ("percentiles", "fixed"):
            low, high = getattr(self, name)
            if not low < high:
                raise ValueError(f"{name}: wanted low < high, got {low} and {high}")
        if self.percentiles[0] < 0 or self.percentiles[1] > 100:
            raise ValueError(f"percentiles: wanted 0 to 100, got {list(self.percentiles)}")
        return self


PUBLISHED_PREPROCESSING = Preprocessing(
    crop=192,
    bands=(0, 1, 2),
    # The published code applies luminance weights to channels in BGR order.
    weights=(0.0721, 0.7154, 0.2125),
    size=128,
    resample="bilinear-unfiltered",
)


class Network(Section):
    """The encoder's and decoder's sizes (paper, section 3.4)."""

    size: int = Field(64, ge=8, le=1024)
    """Side of the images, px; divisible by 2 for every block (any side with reduction = stride and
    decoder = dense)."""
    bands: Positive = 1
    """Bands of the images."""
    latent: Positive = 20
    """D, latent dimensions."""
    filters: tuple[Positive, ...] = Field((32, 32, 16), min_length=1)
    """Filters of the encoder's blocks, first to last."""
    decoder_filters: tuple[Positive, ...] = ()
    """Filters of the decoder's blocks, first to last; empty: the encoder's in reverse."""
    kernels: tuple[Kernel, ...] = (3, 5, 5)
    """Odd kernel sizes of the encoder's blocks, px."""
    decoder_kernels: tuple[Kernel, ...] = (5, 5, 5)
    """Odd kernel sizes of the decoder's blocks, first to last, px."""
    convolutions: int = Field(2, ge=1, le=8)
    """Convolutions of an encoder's block, each with its activation."""
    decoder_convolutions: int = Field(2, ge=1, le=8)
    """Convolutions of a decoder's block."""
    blocks: Literal["plain", "residual"] = "plain"
    """residual: a convolution that keeps the number of maps adds to what it was given."""
    normalisation: Literal["none", "group"] = "none"
    """After every convolution: nothing, or group normalisation (8 maps a group, or fewer where
    8 does not divide them), which is the same for any batch and any number of workers."""
    reduction: Literal["max-pool", "stride"] = "max-pool"
    """How an encoder's block halves the image: by max-pooling after its convolutions, or by
    stride 2 in its first convolution (less work)."""
    decoder: Literal["convolutional", "dense"] = "convolutional"
    """dense: layers of decoder_widths from latents to pixels, without convolutions."""
    decoder_widths: tuple[Positive, ...] = Field((512, 512), min_length=1)
    """Widths of the hidden layers of a dense decoder."""
    slope: float = Field(0.1, ge=0, lt=1)
    """Slope of the leaky ReLU below 0."""
    upsampling: Literal["half-pixel", "legacy", "pixel-shuffle"] = "half-pixel"
    """Bilinear up-sampling with half-pixel centres (torch, Keras 3) or as TensorFlow 1 did it;
    or a convolution to four times the maps, laid out as four pixels."""
    upsample: Literal["after", "before"] = "after"
    """Whether a decoder's block doubles the image after its convolutions, as in the paper, or
    before them."""
    output: Literal["relu", "sigmoid"] = "relu"
    """Last activation: relu for the squared error, sigmoid for the cross-entropy."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        blocks = len(self.filters)
        if self.decoder_filters and len(self.decoder_filters) != blocks:
            raise ValueError(
                f"decoder_filters: wanted one per block ({blocks}), got {len(self.decoder_filters)}"
            )
        for name in ("kernels", "decoder_kernels"):
            kernels = getattr(self, name)
            if len(kernels) != blocks:
                raise ValueError(f"{name}: wanted one per block ({blocks}), got {len(kernels)}")
            if any(kernel % 2 == 0 for kernel in kernels):
                raise ValueError(f"{name}: wanted odd sizes, got {list(kernels)}")
        halves_any = self.reduction == "stride" and self.decoder == "dense"
        if self.size % 2**blocks and not halves_any:
            raise ValueError(f"size: wanted a multiple of {2**blocks}, got {self.size}")
        return self

    @property
    def image_memory(self) -> int:
        """Bytes that an image takes in computing: three layers of its size, of the most filters."""
        most = max(self.bands, *self.filters, *self.decoder_filters)
        return 3 * 4 * most * self.size**2


PUBLISHED_NETWORK = Network(
    size=128, bands=1, latent=20, filters=(64, 64, 16), kernels=(3, 5, 5), upsampling="legacy"
)


class Mixture(Section):
    """The Gaussian mixture over the latent space."""

    components: Positive | Literal["auto"] = 12
    """K, components; auto counts them by a Dirichlet-process mixture (paper, section 4.1)."""
    most_components: int = Field(30, ge=2, le=1000)
    """Components that auto begins with; more than are needed. It counts them in 1,000 images."""
    start: Literal["em", "graph"] = "em"
    """The first mixture: k-means and EM, the likeliest of several starts (the paper's way); or
    the least normalised cut of a graph of shared neighbours."""
    initial_rows: Positive = 20_000
    """Images of the sample from which the first mixture is made."""
    initial_starts: Positive = 5
    """Starts of k-means and EM, of which the likeliest is kept."""
    initial_spread: bool = True
    """Widen the first variances by the encoder's own: the mixture KL counts each image's spread,
    which a fit to the means has not seen. The paper's fit is without."""
    variance_floor: float = Field(1e-4, gt=0)
    """Least variance of a component along a latent dimension."""
    responsibilities: Literal["sample", "mean", "bound"] = "sample"
    """Where training takes g = p(c | z): at the sampled z (VaDE), at the encoder's mean (s3VDC),
    or the g that makes the bound greatest, which has no sampling noise."""
    scaled: float = Field(0.0, ge=0)
    """L of s3VDC's responsibilities, scaled by the least and greatest log joint of the whole
    batch (50 in the paper); 0: the exact ones. Training only."""
    responsibility_gradient: bool = True
    """Whether gradients flow through g."""
    least_share: float = Field(0.0, ge=0, lt=1)
    """A component whose mean responsibility over an epoch is below this share of 1/K starves: it
    is made again as half of the largest one; 0 never does so."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scaled and self.responsibilities == "bound":
            raise ValueError(
                f"scaled: wanted 0 with responsibilities = bound, got {self.scaled:g}; s3VDC's are "
                "of a sample or the mean"
            )
        return self


class Schedule(Section):
    """Phases (paper, sections 3.3 and 4.1)."""

    gamma: float = Field(5e-4, ge=0)
    """Weight of the unit-Gaussian KL in the gamma phase."""
    gamma_epochs: Positive = 100
    """Epochs of the gamma phase."""
    periods: Positive = 5
    """Periods of annealing and static training."""
    annealing_epochs: Positive = 25
    """Epochs of annealing in a period: the mixture KL's weight is min(1, gamma + (e/E)^power)."""
    static_epochs: int = Field(25, ge=0)
    """Epochs in a period with that weight at 1."""
    annealing_power: float = Field(3.0, gt=0)
    """Power of the annealing polynomial."""
    kl_weight: float = Field(0.3, gt=0)
    """Factor on the mixture KL throughout (paper, section 4.1)."""
    pseudo_labels: float = Field(0.0, ge=0)
    """Factor on the cross-entropy towards the partition that began the mixture, in the first
    epochs that train it: not the paper's."""
    pseudo_label_epochs: Positive = 1
    """Epochs of that term."""


class Optimiser(Section):
    """Adam and its surroundings."""

    batch: Positive = 190
    """Images of a global batch, whatever the number of workers."""
    learning_rate: float = Field(3e-4, gt=0)
    """First learning rate."""
    final_learning_rate: float = Field(1e-6, gt=0)
    """Learning rate of the last epochs, reached by steps."""
    decay_every: Positive = 5
    """Epochs between steps of the learning rate."""
    clip: float = Field(1.0, gt=0)
    """Gradient values are clipped at this once the mixture trains."""
    l2: float = Field(0.01, ge=0)
    """Factor on the sum of squares of weights and biases, added once per batch."""
    max_skipped: int = Field(10, ge=0)
    """Batches of an epoch whose loss or gradient may be non-finite: they are skipped and counted;
    one more stops the training."""


class Views(Section):
    """Random views of an image, for the contrast: how far each may be moved from what it was.

    An affine map about the centre, drawn anew for every view. A flip, where the recipe flips,
    comes first and each view has its own.
    """

    rotation: float = Field(0.0, ge=0, le=180)
    """Greatest rotation either way, degrees."""
    scale: float = Field(0.0, ge=0, lt=1)
    """Greatest change of scale either way, a fraction."""
    shear: float = Field(0.0, ge=0, lt=1)
    """Greatest shear either way, a fraction."""
    shift: float = Field(0.0, ge=0)
    """Greatest shift along each axis either way, px."""
    gain: float = Field(0.0, ge=0, lt=1)
    """Greatest change of brightness either way, a fraction."""


class Contrast(Section):
    """Two views of an image are drawn together and apart from others' (InfoNCE; no label)."""

    weight: float = Field(0.0, ge=0)
    """Factor on the term; 0 leaves it out, and an image is seen as one view."""
    temperature: float = Field(0.2, gt=0)
    """Temperature of the cosine similarities."""
    projection: int = Field(0, ge=0)
    """Width of a small network from latents to what is compared, left out of the model: so the
    latents may keep what views differ in; 0 compares the latents themselves."""
    fades: bool = False
    """Whether the term ends with the gamma phase."""
    views: Views = Views()
    """The views."""


class Recipe(Section):
    """A whole training."""

    mode: str = Field("", pattern="^[a-z0-9-]*$")
    """The recipe's way of training, one of its [modes] tables: paper, the paper's method; ours,
    with terms that are not in the paper. Empty takes the recipe's own choice."""
    network: Network = Network()
    """Sizes of the network."""
    mixture: Mixture = Mixture()
    """The mixture and how it starts."""
    schedule: Schedule = Schedule()
    """Phases and weights."""
    optimiser: Optimiser = Optimiser()
    """Adam, batch, decay, clipping, L2."""
    loss: Literal["mse", "cross-entropy"] = "mse"
    """Reconstruction error, summed over bands and pixels, averaged over the batch."""
    outside_weight: float = Field(1.0, ge=0, le=1)
    """Weight of the reconstruction outside the central source, for images packed with
    preprocessing.source_mask; 1 weighs all pixels alike."""
    contrast: Contrast = Contrast()
    """The contrast between views: not the paper's."""
    agreement: float = Field(0.0, ge=0)
    """Factor on the mutual information between two views' responsibilities, which rises where
    views agree and all components are used; only where classes are about equally large."""
    flips: bool = True
    """Random horizontal and vertical flips at every read."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of weights, data order, flips and sampling."""
    held_out: float = Field(0.0, ge=0, lt=1)
    """Share of the images, chosen by the seed, that are not trained on but measured after every
    epoch."""
    window: Positive = 100_000
    """Images that an epoch shuffles as one: shards come in random order, laid out in windows of
    this many. What workers hold, together, of images that are streamed."""
    checkpoint_epochs: Positive = 1
    """Epochs between checkpoints."""
    checkpoint_steps: int = Field(0, ge=0)
    """Batches between further checkpoints within an epoch; 0 makes none."""
    precision: Literal["auto", "float32", "bfloat16"] = "float32"
    """Arithmetic of the network in training: float32, bfloat16 autocast, or auto: bfloat16 where
    the worker's device has it natively."""
    search: dict[str, Range] = {}
    """What `avader tune` searches: ranges or choices of settings by dotted name, such as
    "optimiser.learning_rate" = { low = 3e-4, high = 3e-3, log = true } in the table [search]."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_ranges(self)
        if self.loss == "cross-entropy" and self.network.output != "sigmoid":
            raise ValueError(
                f"loss: cross-entropy wants network.output = sigmoid, got {self.network.output}"
            )
        return self

    @property
    def components(self) -> int:
        """K, or the most that `auto` begins with."""
        mixture = self.mixture
        if mixture.components == "auto":
            return mixture.most_components
        return mixture.components


def setting(recipe: Recipe, name: str) -> Any:
    """The value of a setting by its dotted name; ValueError where there is none of that name."""
    value: Any = recipe
    for part in name.split("."):
        if not (isinstance(value, BaseModel) and part in type(value).model_fields):
            raise ValueError(
                f"search: wanted names of settings such as optimiser.learning_rate, got {name!r}"
            )
        value = getattr(value, part)
    if isinstance(value, Section):
        raise ValueError(f"search: wanted the name of one setting, got the section {name!r}")
    return value


def varied(recipe: Recipe, values: Mapping[str, Any]) -> Recipe:
    """The recipe with these values, by dotted name, and without ranges.

    Raises pydantic's ValidationError where a value is not valid for its setting.
    """
    plain: dict[str, Any] = {}
    for name in Recipe.model_fields.keys() - {"search"}:
        value = getattr(recipe, name)
        plain[name] = value.model_dump() if isinstance(value, Section) else value
    for name, value in values.items():
        *sections, last = name.split(".")
        inner = plain
        for part in sections:
            inner = inner[part]
        inner[last] = value
    return Recipe(**plain)


def _check_ranges(recipe: Recipe) -> None:
    """ValueError where a range names no setting, or holds a value that its setting cannot have."""
    for name in recipe.search:
        setting(recipe, name)
        if name in APART:
            raise ValueError(f"search: {name} is not searched, since {APART[name]}")
    for name, value in extremes(recipe.search):
        try:
            varied(recipe, {name: value})
        except ValidationError as error:
            problem = error.errors()[0]["msg"].removeprefix("Value error, ")
            wanted = problem.replace("Input should be", "wanted")
            raise ValueError(f"search.{name}: {wanted}, got {value!r} in its range") from error

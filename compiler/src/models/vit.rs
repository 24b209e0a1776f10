//! ViT (arXiv 2010.11929): an encoder of the patches of an image.

use super::{
    Architecture, Family, ModelError,
    attention::{Attention, Heads, Projections},
    blocks::{Activation, Mlp, Norm, positive},
    draft::{Block, Size},
    encoder::{Encoder, Names, Own},
    head::{Head, Rows},
    layer::{Layer, Norms},
};
use crate::checkpoint::{CheckpointError, Config};
use ir::{
    Filter, Image, Positions, Value, feed,
    ops::{Concat, Gather, Reshape},
};

/// See the module's text.
pub(super) const FAMILY: Family = Family {
    name: "vit",
    architectures: &["ViTModel", "ViTForImageClassification"],
    read,
};

fn read(config: &Config) -> Result<Box<dyn Architecture>, ModelError> {
    let heads = Heads::multi(config, "hidden_size", "num_attention_heads")?;
    let mlp = Mlp::plain(
        ["intermediate.dense", "output.dense"],
        Size::read(config, "intermediate_size")?,
        Activation::read(config, "hidden_act", "gelu")?,
    );
    let hidden = Size::read(config, "hidden_size")?;
    let pooled = config.usize_or("pooler_output_size", hidden.n)?;
    let image = image(config)?;
    let tokens = image.patches() + 1;
    Ok(Box::new(Encoder {
        names: Names {
            backbone: "vit.",
            words: "",
            embedding_norm: None,
            stem: "encoder.layer.",
            norm: Some("layernorm"),
        },
        image: Some(image),
        vocabulary: Size::new(1, "words"),
        hidden: hidden.clone(),
        embedding: None,
        positions: Size::new(0, "a table of its own"),
        token_types: Size::new(0, "segments"),
        numbering: Positions::Index,
        context: tokens,
        ropes: vec![],
        layer: Layer {
            norm: Norm::layer(positive(config, "layer_norm_eps", 1e-12)?),
            attention: Attention {
                projections: Projections::Apart([
                    "attention.attention.query",
                    "attention.attention.key",
                    "attention.attention.value",
                ]),
                input_bias: config.bool_or("qkv_bias", true)?,
                output_bias: true,
                ..Attention::plain(heads, "attention.output.dense")
            },
            attention_norms: Norms::before("layernorm_before"),
            mlp,
            mlp_norms: Norms::before("layernorm_after"),
            parallel: false,
            residual: 1.0,
        },
        layers: Own::plain(config.usize("num_hidden_layers")?),
        head: match config.architecture()? {
            "ViTForImageClassification" => {
                Head::classes(Rows::First, None, "classifier", config.labels()?)
            }
            _ if pooled != hidden.n => {
                let expected = format!("hidden_size, which is {}", hidden.n);
                return Err(config.invalid("pooler_output_size", expected).into());
            }
            _ if config.str_or("pooler_act", "tanh")? != "tanh" => {
                return Err(config.invalid("pooler_act", "tanh").into());
            }
            _ => Head::Bare {
                pooler: Some("vit.pooler.dense"),
            },
        },
    }))
}

/// The sizes of images and patches: a number, or one for each side. How pixels become numbers is not the config's.
fn image(config: &Config) -> Result<Image, CheckpointError> {
    let sides = |key: &str, default: usize| match config.opt_f64s(key) {
        Ok(Some(sides))
            if sides.len() == 2 && sides.iter().all(|s| *s >= 1.0 && *s <= 65_536.0) =>
        {
            Ok([sides[0] as usize, sides[1] as usize])
        }
        _ => Ok([config.usize_or(key, default)?; 2]),
    };
    let [height, width] = sides("image_size", 224)?;
    let [patch, across] = sides("patch_size", 16)?;
    if patch != across || height % patch != 0 || width % patch != 0 {
        let expected = format!("a square that divides the image, which is {height} x {width}");
        return Err(config.invalid("patch_size", expected));
    }
    let channels = config.usize_or("num_channels", 3)?;
    if channels != 3 {
        return Err(config.invalid("num_channels", "3: red, green and blue"));
    }
    let half = vec![0.5.into(); channels];
    Ok(Image {
        height,
        width,
        channels,
        patch,
        filter: Filter::Bilinear,
        scale: (1.0 / 255.0).into(),
        mean: half.clone(),
        std: half,
    })
}

impl Block<'_, '_> {
    /// Rows for the patches of images, and one before them that stands for the whole: its patch is zero. What depends on
    /// a row's place alone (its position, the bias, the whole's own vector) is one table.
    pub(super) fn pictured(&mut self, image: &Image, hidden: &Size) -> Result<Value, ModelError> {
        let patches = self.patches(image.numbers());
        let [channels, side] = [image.channels, image.patch].map(|n| Size::new(n, "of a patch"));
        let name = "patch_embeddings.projection";
        let shape = [hidden, &channels, &side, &side];
        let kernel = self.weight(&format!("{name}.weight"), &shape)?;
        let shape = vec![hidden.n.into(), image.numbers().into()];
        let kernel = self.op(Reshape { shape }, &[kernel])?;
        let seen = self.affine(patches, kernel, None)?;

        let (one, tokens) = (Size::new(1, "one"), image.patches() + 1);
        let count = Size::new(tokens, "patches of an image, and one");
        let places = self.weight("position_embeddings", &[&one, &count, hidden])?;
        let shape = vec![tokens.into(), hidden.n.into()];
        let places = self.op(Reshape { shape }, &[places])?;
        let whole = self.weight("cls_token", &[&one, &one, hidden])?;
        let shape = vec![1.into(), hidden.n.into()];
        let whole = self.op(Reshape { shape }, &[whole])?;
        let bias = self.weight(&format!("{name}.bias"), &[hidden])?;
        let (first, others) = (self.rows(places, 0..1)?, self.rows(places, 1..tokens)?);
        let (first, others) = (self.sum(first, whole)?, self.sum(others, bias)?);
        let table = self.op(Concat { axis: 0 }, &[first, others])?;
        let positions = self.feed(feed::POSITIONS);
        let placed = self.op(Gather, &[table, positions])?;
        self.sum(seen, placed)
    }
}

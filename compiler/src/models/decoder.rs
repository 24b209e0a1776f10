//! The decoder that most families are variations of: layers over a key/value cache, between an embedding and a head. A
//! family reads its config into one and changes what differs.

use super::{
    Architecture, ModelError, Outline,
    attention::{Attention, Heads, Span},
    blocks::{Activation, Gate, Mlp, Norm, positive},
    draft::{Block, Draft, Size},
    experts::Experts,
    layer::{self, Layer, Norms},
    rope::Frequencies,
};
use crate::checkpoint::{Checkpoint, CheckpointError, Config};
use ir::{
    Operand, Positions, Program, Task, Value, feed,
    ops::{Gather, Linear, Tanh},
};

/// Most tokens in a step of a CPU: a longer prompt is fed in parts.
const STEP: usize = 512;

/// See the module's text.
pub(super) struct Decoder {
    pub(super) names: Names,
    pub(super) vocabulary: Size,
    pub(super) hidden: Size,
    /// Width of the embedding table, and the projections from it and back to it where it is not that of layers.
    pub(super) embedding: Option<(Size, [&'static str; 2])>,
    /// What embeddings are multiplied by.
    pub(super) embedding_scale: f64,
    /// The norm of embeddings, where there is one.
    pub(super) embedding_norm: Option<&'static str>,
    /// The table of positions, where they are learned.
    pub(super) learned: Option<Learned>,
    /// The rotations that layers choose from.
    pub(super) ropes: Vec<Frequencies>,
    pub(super) context: usize,
    /// What all layers have in common.
    pub(super) layer: Layer,
    /// What each has of its own.
    pub(super) layers: Vec<Own>,
    /// What sparse layers have in place of the feed-forward part.
    pub(super) experts: Option<Experts>,
    /// Whether the head is the embedding table.
    pub(super) tied: bool,
    /// What logits are multiplied by.
    pub(super) logits_scale: f64,
    /// What logits are bounded by, where positive.
    pub(super) logits_softcap: f64,
    /// Whether weights of projections are stored `[in, out]`.
    pub(super) transposed: bool,
    /// How positions are numbered.
    pub(super) numbering: Positions,
}

/// What a family calls the tensors that are in no layer.
pub(super) struct Names {
    /// Prefix of all but the head that checkpoints of the bare model leave out.
    pub(super) backbone: &'static str,
    /// Prefix of all but the head.
    pub(super) scope: &'static str,
    /// The table of embeddings.
    pub(super) embedding: &'static str,
    /// What comes before a layer's number.
    pub(super) stem: &'static str,
    /// The norm after the last layer, if any.
    pub(super) norm: Option<&'static str>,
    /// The head where it is no embedding table, in full.
    pub(super) head: &'static str,
}

impl Names {
    /// Those of GPT-2 and what took after it, but for the embedding's.
    pub(super) fn transformer(embedding: &'static str) -> Names {
        Names {
            backbone: "transformer.",
            scope: "transformer.",
            embedding,
            stem: "h.",
            norm: Some("ln_f"),
            head: "lm_head",
        }
    }
}

/// A learned position table.
pub(super) struct Learned {
    pub(super) name: &'static str,
    /// Rows, those before position 0 included.
    pub(super) rows: Size,
    /// Rows before position 0.
    pub(super) offset: usize,
}

/// What a layer has of its own.
#[derive(Clone, Copy)]
pub(super) struct Own {
    /// See [`Span`].
    pub(super) span: Span,
    /// Index of its rotation, if it has one.
    pub(super) rope: Option<usize>,
    /// Whether it has experts, where there are some.
    pub(super) sparse: bool,
}

impl Own {
    /// So many layers that see everything, turn by this rotation, and have experts where there are some.
    pub(super) fn alike(layers: usize, rope: Option<usize>) -> Vec<Own> {
        let own = Own {
            span: Span::All,
            rope,
            sparse: true,
        };
        vec![own; layers]
    }
}

impl Decoder {
    /// What the keys that Llama and its descendants share say; no biases but the feed-forward layer's, no windows.
    pub(super) fn read(config: &Config) -> Result<Decoder, ModelError> {
        Decoder::turning(config, 1e4)
    }

    /// The same, with `theta` as the rotation's base where the config is silent.
    pub(super) fn turning(config: &Config, theta: f64) -> Result<Decoder, ModelError> {
        let mut decoder = Decoder::read_without_rope(config)?;
        let dim = decoder.layer.attention.heads.dim;
        let rope = Frequencies::read(config, "full_attention", (theta, 1.0), dim)?;
        decoder.context = rope.context(decoder.context);
        decoder.ropes = vec![rope];
        Ok(decoder)
    }

    /// The same but for the one rotation, which all layers name.
    pub(super) fn read_without_rope(config: &Config) -> Result<Decoder, ModelError> {
        let mlp = Mlp {
            gate: Gate::Apart("mlp.gate_proj"),
            up: "mlp.up_proj",
            down: "mlp.down_proj",
            bias: config.bool_or("mlp_bias", false)?,
            inner: Size::read(config, "intermediate_size")?,
            activation: Activation::read(config, "hidden_act", "silu")?,
        };
        Ok(Decoder {
            context: config.usize_or("max_position_embeddings", 2048)?,
            layers: Own::alike(config.usize("num_hidden_layers")?, Some(0)),
            tied: config.bool_or("tie_word_embeddings", false)?,
            ..Decoder::new(
                Size::read(config, "vocab_size")?,
                Size::read(config, "hidden_size")?,
                Norm::rms(positive(config, "rms_norm_eps", 1e-6)?),
                heads(config)?,
                mlp,
            )
        })
    }

    /// A decoder of these parts, under Llama's names, with no positions and no layers yet.
    pub(super) fn new(
        vocabulary: Size,
        hidden: Size,
        norm: Norm,
        heads: Heads,
        mlp: Mlp,
    ) -> Decoder {
        Decoder {
            names: Names {
                backbone: "model.",
                scope: "model.",
                embedding: "embed_tokens",
                stem: "layers.",
                norm: Some("norm"),
                head: "lm_head",
            },
            vocabulary,
            hidden,
            embedding: None,
            embedding_scale: 1.0,
            embedding_norm: None,
            learned: None,
            ropes: vec![],
            context: 0,
            layer: Layer {
                norm,
                attention: Attention {
                    cached: true,
                    ..Attention::plain(heads, "self_attn.o_proj")
                },
                attention_norms: Norms::before("input_layernorm"),
                mlp,
                mlp_norms: Norms::before("post_attention_layernorm"),
                parallel: false,
                residual: 1.0,
            },
            layers: vec![],
            experts: None,
            tied: false,
            logits_scale: 1.0,
            logits_softcap: 0.0,
            transposed: false,
            numbering: Positions::Index,
        }
    }

    /// Gives all projections of attention biases, or none.
    pub(super) fn attention_bias(mut self, bias: bool) -> Decoder {
        self.layer.attention.input_bias = bias;
        self.layer.attention.output_bias = bias;
        self
    }

    /// Lets the tokens of layers that slide see the last `window` rows only, where there is one.
    pub(super) fn windowed(
        mut self,
        window: Option<usize>,
        slides: impl IntoIterator<Item = bool>,
    ) -> Decoder {
        for (own, slides) in self.layers.iter_mut().zip(slides) {
            if slides {
                own.span = window.map_or(Span::All, Span::Last);
            }
        }
        self
    }

    /// Embeddings `[T, H]`, and the cosines and sines of the tokens' angles by each rotation.
    fn embed(&self, draft: &mut Draft) -> Result<(Operand, Vec<[Operand; 2]>), ModelError> {
        let mut b = draft.block(self.names.scope);
        let tokens = b.feed(feed::TOKENS);
        let width = self.embedding.as_ref().map_or(&self.hidden, |e| &e.0);
        let mut x = b.embedding(self.names.embedding, &self.vocabulary, width, tokens)?;
        x = b.scaled(x, self.embedding_scale)?;
        if let Some((_, [into, _])) = &self.embedding {
            x = b.linear(into, x, &self.hidden, false)?;
        }
        if let Some(table) = &self.learned {
            let found = self.position(&mut b, table)?;
            x = b.sum(x, found)?;
        }
        if let Some(name) = self.embedding_norm {
            x = b.norm(name, x, self.layer.norm)?;
        }
        b.embedded(x, &self.ropes)
    }

    /// The rows of the learned table at the fed positions.
    fn position(&self, b: &mut Block, table: &Learned) -> Result<Value, ModelError> {
        let positions = b.feed(feed::POSITIONS);
        let name = format!("{}.weight", table.name);
        let mut rows = b.weight(&name, &[&table.rows, &self.hidden])?;
        if table.offset > 0 {
            rows = b.rows(rows, table.offset..table.rows.n)?;
        }
        b.op(Gather, &[rows, positions])
    }

    fn layer(
        &self,
        draft: &mut Draft,
        index: usize,
        x: &Operand,
        rotations: &[[Operand; 2]],
    ) -> Result<Operand, ModelError> {
        let stem = format!("{}{}", self.names.scope, self.names.stem);
        let mut b = draft.layer(&stem, index);
        let own = self.layers[index];
        let x = b.take("x", x);
        let rotation = own.rope.map(|i| b.take_rotation(&rotations[i]));
        let parts = layer::Own {
            span: own.span,
            attention_norms: None,
            experts: self.experts.as_ref().filter(|_| own.sparse),
        };
        let x = self.layer.apply(&mut b, x, rotation, parts)?;
        Ok(b.finish("layer", &[x]).swap_remove(0))
    }

    /// Logits of the selected tokens.
    fn head(&self, draft: &mut Draft, x: &Operand) -> Result<Operand, ModelError> {
        let (table, scope) = (self.table(draft)?, self.names.scope);
        let mut b = draft.block("");
        let mut x = b.take("x", x);
        if let Some(name) = self.names.norm {
            x = b.norm(&format!("{scope}{name}"), x, self.layer.norm)?;
        }
        let mut width = &self.hidden;
        if let Some((inner, [_, back])) = &self.embedding {
            (x, width) = (b.linear(&format!("{scope}{back}"), x, inner, false)?, inner);
        }
        let table = b.weight(&table, &[&self.vocabulary, width])?;
        let mut logits = b.op(Linear, &[x, table])?;
        logits = b.scaled(logits, self.logits_scale)?;
        if self.logits_softcap > 0.0 {
            logits = b.scaled(logits, 1.0 / self.logits_softcap)?;
            logits = b.op(Tanh, &[logits])?;
            logits = b.scaled(logits, self.logits_softcap)?;
        }
        let select = b.feed(feed::SELECT);
        let logits = b.op(Gather, &[logits, select])?;
        Ok(b.finish("head", &[logits]).swap_remove(0))
    }

    /// The name of the head's table. Where it is to be the embedding table but the checkpoint has another, that is it,
    /// as in the reference implementation.
    fn table(&self, draft: &Draft) -> Result<String, ModelError> {
        let own = format!("{}.weight", self.names.head);
        if !self.tied {
            return Ok(own);
        }
        let shared = format!("{}{}.weight", self.names.scope, self.names.embedding);
        Ok(match (draft.find(&own)?, draft.find(&shared)?) {
            (Some(a), Some(b)) if a.bytes != b.bytes => own,
            _ => shared,
        })
    }
}

impl Architecture for Decoder {
    fn build(
        &self,
        checkpoint: &Checkpoint,
        times: usize,
    ) -> Result<(Program, Outline), ModelError> {
        let draft = Draft::new(checkpoint, self.names.backbone, [STEP * times, STEP]);
        let mut draft = draft.transposed(self.transposed);
        let (mut x, rotations) = self.embed(&mut draft)?;
        for index in 0..self.layers.len() {
            x = self.layer(&mut draft, index, &x, &rotations)?;
        }
        let logits = self.head(&mut draft, &x)?;
        draft.output("logits", logits);
        let outline = Outline {
            task: Task::CausalLm,
            vocabulary: self.vocabulary.n,
            token_types: 0,
            context: self.context,
            layers: self.layers.len(),
            hidden: self.hidden.n,
            positions: self.numbering,
            image: None,
        };
        Ok((draft.finish()?, outline))
    }
}

/// Refuses a config that is silent about the number of key/value heads, where the reference then takes that of one model
/// of the family; `null` is as many as there are heads.
pub(super) fn asked(config: &Config) -> Result<(), CheckpointError> {
    const KEY: &str = "num_key_value_heads";
    match config.mentions(KEY) {
        true => Ok(()),
        false => Err(config.invalid(KEY, "an integer or null, which no other key implies")),
    }
}

/// Heads by the keys that most configs have.
///
/// # Errors
/// They do not divide as they should.
pub(super) fn heads(config: &Config) -> Result<Heads, ModelError> {
    let heads = config.usize("num_attention_heads")?;
    let groups = config.usize_or("num_key_value_heads", heads)?;
    if heads % groups != 0 {
        let expected = format!("a divisor of num_attention_heads, which is {heads}");
        return Err(config.invalid("num_key_value_heads", expected).into());
    }
    let dim = match config.opt_usize("head_dim")? {
        Some(dim) => dim,
        None => config.quotient("hidden_size", "num_attention_heads")?,
    };
    Ok(Heads { heads, groups, dim })
}

/// For each of `layers` layers whether it is of `sliding_attention`, by `layer_types` or else as `default` says.
///
/// # Errors
/// The config lists types of another number or name.
pub(super) fn slides(
    config: &Config,
    layers: usize,
    default: impl Fn(usize) -> bool,
) -> Result<Vec<bool>, ModelError> {
    let Some(types) = config.layer_types(layers)? else {
        return Ok((0..layers).map(default).collect());
    };
    let slides = types.into_iter().map(|ty| match ty {
        "full_attention" => Ok(false),
        "sliding_attention" => Ok(true),
        _ => {
            let known = "a list of full_attention and sliding_attention";
            Err(config.invalid("layer_types", known).into())
        }
    });
    slides.collect()
}

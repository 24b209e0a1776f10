//! The decoder that most families are variations of: norms before each block, rotary positions, grouped heads, gated
//! feed-forward. A family reads its config into one and changes what differs.

use super::{
    Architecture, ModelError, Outline,
    blocks::{Activation, Heads, Mlp, Norm, positive},
    draft::{Draft, Size},
    rope::Frequencies,
};
use crate::checkpoint::{Checkpoint, Config};
use ir::{Operand, Positions, Program, Task, feed, ops::Gather, ops::Linear};

/// Most tokens in a step: a longer prompt is fed in parts.
const STEP: usize = 512;

/// See the module's text.
pub(super) struct Decoder {
    pub(super) vocabulary: Size,
    pub(super) hidden: Size,
    pub(super) context: usize,
    pub(super) heads: Heads,
    pub(super) norm: Norm,
    pub(super) mlp: Mlp,
    pub(super) rope: Frequencies,
    /// Whether the head is the embedding table.
    pub(super) tied: bool,
    /// Whether projections to queries, keys and values have biases.
    pub(super) input_bias: bool,
    /// Whether the projection of what attention found has one.
    pub(super) output_bias: bool,
    /// Whether each head of queries and keys is normalised.
    pub(super) head_norm: bool,
    /// For each layer, how many of the last rows its tokens look at; `None` for all.
    pub(super) windows: Vec<Option<usize>>,
}

impl Decoder {
    /// What the keys that all these families share say; no biases but the feed-forward layer's, no windows.
    pub(super) fn read(config: &Config) -> Result<Decoder, ModelError> {
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
        let eps = positive(config, "rms_norm_eps", 1e-6)?;
        let layers = config.usize("num_hidden_layers")?;
        Ok(Decoder {
            vocabulary: Size::read(config, "vocab_size")?,
            hidden: Size::read(config, "hidden_size")?,
            context: config.usize_or("max_position_embeddings", 2048)?,
            heads: Heads { heads, groups, dim },
            norm: Norm::Rms { eps },
            mlp: Mlp {
                gate: Some("mlp.gate_proj"),
                up: "mlp.up_proj",
                down: "mlp.down_proj",
                bias: config.bool_or("mlp_bias", false)?,
                inner: Size::read(config, "intermediate_size")?,
                activation: Activation::read(config, "hidden_act", "silu")?,
            },
            rope: Frequencies::read(config, "full_attention", 1e4, dim)?,
            tied: config.bool_or("tie_word_embeddings", false)?,
            input_bias: false,
            output_bias: false,
            head_norm: false,
            windows: vec![None; layers],
        })
    }

    /// Embeddings `[T, H]`, and the cosines and sines of the tokens' angles.
    fn embed(&self, draft: &mut Draft) -> Result<[Operand; 3], ModelError> {
        let mut b = draft.block("model.");
        let tokens = b.feed(feed::TOKENS);
        let x = b.embedding("embed_tokens", &self.vocabulary, &self.hidden, tokens)?;
        let [cos, sin] = b.angles("rope", &self.rope)?;
        let outputs = b.finish("embed", &[x, cos, sin]);
        Ok(outputs.try_into().expect("three outputs were asked for"))
    }

    fn layer(
        &self,
        draft: &mut Draft,
        index: usize,
        [x, cos, sin]: [&Operand; 3],
    ) -> Result<Operand, ModelError> {
        let mut b = draft.layer("model.layers.", index);
        let (x, cos, sin) = (b.take("x", x), b.take("cos", cos), b.take("sin", sin));

        let h = b.norm("input_layernorm", x, self.norm)?;
        let bias = self.input_bias;
        let names = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
        let [mut q, mut k, v] = b.project(h, names.map(|name| (name, bias)), &self.heads)?;
        if self.head_norm {
            q = b.norm("self_attn.q_norm", q, self.norm)?;
            k = b.norm("self_attn.k_norm", k, self.norm)?;
        }
        let (q, k) = (b.rotate(q, [cos, sin])?, b.rotate(k, [cos, sin])?);
        let (k, v) = (b.cached("k_cache", k)?, b.cached("v_cache", v)?);
        let found = b.attend([q, k, v], self.heads.scale(), self.windows[index])?;
        let found = b.linear("self_attn.o_proj", found, &self.hidden, self.output_bias)?;
        let x = b.sum(x, found)?;

        let h = b.norm("post_attention_layernorm", x, self.norm)?;
        let h = b.mlp(h, &self.mlp)?;
        let x = b.sum(x, h)?;
        Ok(b.finish("layer", &[x]).swap_remove(0))
    }

    /// Logits of the selected tokens.
    fn head(&self, draft: &mut Draft, x: &Operand) -> Result<Operand, ModelError> {
        let mut b = draft.block("");
        let x = b.take("x", x);
        let x = b.norm("model.norm", x, self.norm)?;
        let table = if self.tied {
            "model.embed_tokens.weight"
        } else {
            "lm_head.weight"
        };
        let table = b.weight(table, &[&self.vocabulary, &self.hidden])?;
        let logits = b.op(Linear, &[x, table])?;
        let select = b.feed(feed::SELECT);
        let logits = b.op(Gather, &[logits, select])?;
        Ok(b.finish("head", &[logits]).swap_remove(0))
    }
}

impl Architecture for Decoder {
    fn build(&self, checkpoint: &Checkpoint) -> Result<(Program, Outline), ModelError> {
        let mut draft = Draft::new(checkpoint, "model.", STEP);
        let [mut x, cos, sin] = self.embed(&mut draft)?;
        for index in 0..self.windows.len() {
            x = self.layer(&mut draft, index, [&x, &cos, &sin])?;
        }
        let logits = self.head(&mut draft, &x)?;
        draft.output("logits", logits);
        let outline = Outline {
            task: Task::CausalLm,
            vocabulary: self.vocabulary.n,
            token_types: 0,
            context: self.context,
            layers: self.windows.len(),
            hidden: self.hidden.n,
            positions: Positions::Index,
        };
        Ok((draft.finish()?, outline))
    }
}

//! The models that come with the program, and a guess at a model of which only the size is known.

use serde::Deserialize;

use crate::error::{Code, ShardError};
use crate::spec::{Family, ModelSpec};

const BUILTIN: &str = include_str!("models.toml");

/// Vocabulary of a guessed model: the most common size of tokenizers in print (Llama 2, Mistral).
const GUESSED_VOCAB: u64 = 32_000;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalog {
    schema: u32,
    model: Vec<ModelSpec>,
}

/// Every model of the program, in the order of its table.
///
/// # Errors
/// None in practice: a test reads the embedded table.
pub fn models() -> Result<Vec<ModelSpec>, ShardError> {
    let broken = |message: String| ShardError::new(Code::Input, message, "please report this");
    let catalog: Catalog = toml::from_str(BUILTIN).map_err(|e| broken(e.to_string()))?;
    if catalog.schema != 1 {
        return Err(broken("the table of models is of another schema".to_owned()));
    }
    Ok(catalog.model)
}

/// The model of that id; dots, case and the words "meta" and "instruct" do not count.
///
/// # Errors
/// A letter that lists the ids.
pub fn model(id: &str) -> Result<ModelSpec, ShardError> {
    let plain = |id: &str| -> String {
        let lower = id.to_ascii_lowercase().replace("3.1", "3").replace("3.3", "3");
        lower.chars().filter(char::is_ascii_alphanumeric).collect()
    };
    let models = models()?;
    let known: Vec<String> = models.iter().map(|model| model.id.clone()).collect();
    models.into_iter().find(|model| plain(&model.id) == plain(id)).ok_or_else(|| {
        let message = format!("there is no model {id:?}");
        ShardError::new(Code::UnknownModel, message, format!("the models are {}", known.join(", ")))
    })
}

/// Width over depth of published decoders near that size (Llama: 7B 4096 / 32, 13B 5120 / 40, 33B 6656 / 60, 65B and 70B
/// 8192 / 80, 405B 16384 / 126; Touvron et al. 2023, Grattafiori et al. 2024).
fn width_over_depth(params: f64) -> f64 {
    match params {
        p if p < 2e10 => 128.0,
        p if p < 5e10 => 111.0,
        p if p < 2e11 => 102.4,
        _ => 130.0,
    }
}

/// A decoder of about that many parameters.
///
/// A layer has about `12 h^2` parameters, and depth follows from width by [`width_over_depth`], so
/// `h = (ratio x params / 12)^(1/3)`. Heads are 128 wide, eight key-value heads from 30B on as in Llama 2 and 3. The
/// feed-forward width is chosen last, so that the total is met within a percent.
///
/// # Errors
/// A letter for sizes below a million or above 100 trillion.
pub fn guess(params: f64) -> Result<ModelSpec, ShardError> {
    if !(1e6..=1e14).contains(&params) {
        let message = format!("a model of {params} parameters is out of range");
        return Err(ShardError::new(Code::Input, message, "say 70B, 8e9 or 350M; at least 1M, at most 100T"));
    }
    let head_dim = if params < 1e9 { 64 } else { 128 };
    let ratio = width_over_depth(params);
    let width = (ratio * params / 12.0).cbrt();
    let heads = ((width / head_dim as f64).round() as u64).max(2);
    let heads = if heads >= 24 { (heads + 4) / 8 * 8 } else { heads };
    let hidden = heads * head_dim;
    let layers = ((hidden as f64 / ratio).round() as u64).clamp(2, crate::spec::MAX_LAYERS);
    let kv_heads = if params >= 3e10 && heads.is_multiple_of(8) { 8 } else { heads };
    let mut spec = ModelSpec {
        id: format!("{params:.0}-parameters"),
        name: format!("a decoder of {:.3} B parameters (guessed)", params / 1e9),
        family: Family::Decoder,
        layers,
        hidden,
        heads,
        kv_heads,
        head_dim,
        ffn: 256,
        gated_ffn: true,
        vocab: if params < 1e9 { GUESSED_VOCAB / 2 } else { GUESSED_VOCAB },
        experts: 1,
        top_k: 1,
        has_head: true,
        context: 8192,
        other_params: hidden,
        evaluations: 1,
        tied_embeddings: params < 1e9,
        source: format!(
            "guessed from the parameter count: {layers} layers of width {hidden}, {heads} heads, {kv_heads} for keys and \
             values, by the published shapes of Llama"
        ),
        ..ModelSpec::default()
    };
    // What is left after attention, norms and tables is the feed-forward layers'.
    let rest = params - (spec.params() - spec.layers * spec.expert_params()) as f64;
    let per_column = (3 * spec.layers * spec.hidden) as f64;
    spec.ffn = ((rest / per_column).round().max(1.0)) as u64;
    spec.params_published = spec.params();
    spec.check().map_err(|message| ShardError::new(Code::Input, message, "say another size"))?;
    Ok(spec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_those_in_print() {
        for model in models().unwrap() {
            model.check().unwrap();
            assert_eq!(model.params(), model.params_published, "{}", model.id);
        }
    }

    #[test]
    fn operations_and_caches_are_those_of_the_closed_forms() {
        let near = |got: f64, want: f64| assert!((got / want - 1.0).abs() < 1e-9, "{got} {want}");
        let m = |id: &str| model(id).unwrap();
        assert_eq!(m("llama-3-70b").matmul_params_active(), 69_501_714_432);
        assert_eq!(m("mixtral-8x7b").matmul_params_total(), 46_571_454_464);
        assert_eq!(m("mixtral-8x7b").matmul_params_active(), 12_748_587_008);
        near(m("llama-3-8b").decode_flops(2048.0), 16_083_058_688.0);
        near(m("llama-3-70b").prefill_flops(2048.0), 285_875_124_568_064.0);
        near(m("llama-3-405b").prefill_flops(512.0), 412_372_602_716_160.0);
        near(m("gpt-2").decode_flops(8192.0), 549_053_952.0);
        near(m("bert-base").prefill_flops(512.0), 96_636_764_160.0);
        near(m("llama-3-70b").kv_bytes_per_token(2.0), 327_680.0);
        near(m("llama-3-405b").kv_bytes_per_token(1.0), 258_048.0);
        near(m("gpt-2").kv_bytes_per_token(2.0), 36_864.0);
        assert_eq!(m("bert-base").kv_bytes_per_token(2.0), 0.0);
        near(m("whisper-large-v3").decode_flops(0.0), 1_600_783_360.0);
        near(m("whisper-large-v3").kv_bytes_per_token(2.0), 163_840.0);
        let whisper = m("whisper-large-v3").prefill_flops(1500.0);
        // The convolutions in front are 0.7 % of the encoder and are left out.
        assert!((whisper / (2_273_771_520_000.0 + 314_572_800_000.0) - 1.0).abs() < 0.01);
        let vit = m("vit-b-16").prefill_flops(197.0);
        assert!((vit / 35_127_656_448.0 - 1.0).abs() < 0.01, "{vit}");
    }

    #[test]
    fn guesses_meet_their_size() {
        for params in [1.24e8, 1e9, 7e9, 8e9, 13e9, 33e9, 70e9, 180e9, 405e9, 1e12] {
            let spec = guess(params).unwrap();
            assert!((spec.params() as f64 / params - 1.0).abs() < 0.01, "{params}: {}", spec.params());
        }
        assert_eq!(guess(70e9).unwrap().layers.abs_diff(80), 0);
        assert!(guess(7e9).unwrap().layers.abs_diff(32) <= 4);
        assert!(guess(f64::NAN).is_err() && guess(0.0).is_err() && guess(1e300).is_err());
    }

    #[test]
    fn names_are_found_as_people_write_them() {
        assert_eq!(model("Llama-3.1-70B").unwrap().layers, 80);
        assert!(model("llama-9").unwrap_err().hint.contains("mixtral-8x7b"));
    }
}

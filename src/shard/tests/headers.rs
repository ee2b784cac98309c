//! Headers of files: what they say about a model, and that hostile ones end in a letter.

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests are tests")]

use partita_shard::header::{self, FileModel};
use partita_shard::{Family, ShardError};
use proptest::prelude::*;

fn read(bytes: &[u8]) -> Result<FileModel, ShardError> {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let path = std::env::temp_dir().join(format!("partita-shard-{}-{number}", std::process::id()));
    std::fs::write(&path, bytes).unwrap();
    let read = header::read(&path);
    std::fs::remove_file(&path).unwrap();
    read
}

/// A decoder of two layers as the Hugging Face library names it.
fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut list = vec![
        ("model.embed_tokens.weight".to_owned(), vec![100, 256]),
        ("lm_head.weight".to_owned(), vec![100, 256]),
        ("model.norm.weight".to_owned(), vec![256]),
    ];
    for layer in 0..2 {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        list.push((name("self_attn.q_proj"), vec![256, 256]));
        list.push((name("self_attn.k_proj"), vec![128, 256]));
        list.push((name("self_attn.v_proj"), vec![128, 256]));
        list.push((name("self_attn.o_proj"), vec![256, 256]));
        list.push((name("mlp.gate_proj"), vec![512, 256]));
        list.push((name("mlp.up_proj"), vec![512, 256]));
        list.push((name("mlp.down_proj"), vec![256, 512]));
        list.push((name("input_layernorm"), vec![256]));
        list.push((name("post_attention_layernorm"), vec![256]));
    }
    list
}

fn safetensors() -> Vec<u8> {
    let mut at = 0;
    let rows: Vec<String> = tensors()
        .into_iter()
        .map(|(name, shape)| {
            let bytes = 2 * shape.iter().product::<u64>();
            at += bytes;
            format!(
                "\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{},{at}]}}",
                at - bytes
            )
        })
        .collect();
    let text = format!("{{\"__metadata__\":{{\"format\":\"pt\"}},{}}}", rows.join(","));
    let mut file = (text.len() as u64).to_le_bytes().to_vec();
    file.extend(text.as_bytes());
    file.resize(file.len() + at as usize, 0);
    file
}

fn gguf() -> Vec<u8> {
    let text = |word: &str| [&(word.len() as u64).to_le_bytes()[..], word.as_bytes()].concat();
    let number = |key: &str, value: u32| {
        [text(key), 4_u32.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat()
    };
    let mut pairs =
        vec![[text("general.architecture"), 8_u32.to_le_bytes().to_vec(), text("llama")].concat()];
    for (key, value) in [
        ("block_count", 2),
        ("embedding_length", 256),
        ("feed_forward_length", 512),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 4096),
    ] {
        pairs.push(number(&format!("llama.{key}"), value));
    }
    let words: Vec<u8> = (0..100).flat_map(|n| text(&format!("w{n}"))).collect();
    let array =
        [9_u32.to_le_bytes().to_vec(), 8_u32.to_le_bytes().to_vec(), 100_u64.to_le_bytes().to_vec()].concat();
    pairs.push([text("tokenizer.ggml.tokens"), array, words].concat());
    let names = [("token_embd.weight", vec![256_u64, 100]), ("output.weight", vec![256, 100])];
    let layer = [("attn_q", 256, 256), ("attn_k", 256, 128), ("ffn_up", 256, 512)];
    let mut list: Vec<(String, Vec<u64>)> = names.iter().map(|(n, s)| ((*n).to_owned(), s.clone())).collect();
    for block in 0..2 {
        list.extend(layer.iter().map(|(n, a, b)| (format!("blk.{block}.{n}.weight"), vec![*a, *b])));
    }
    let mut file = b"GGUF".to_vec();
    file.extend(3_u32.to_le_bytes());
    file.extend((list.len() as u64).to_le_bytes());
    file.extend((pairs.len() as u64).to_le_bytes());
    file.extend(pairs.concat());
    for (name, shape) in list {
        file.extend(text(&name));
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().flat_map(|size| size.to_le_bytes()));
        file.extend(12_u32.to_le_bytes());
        file.extend(0_u64.to_le_bytes());
    }
    file
}

fn onnx() -> Vec<u8> {
    let bytes = |field: u8, content: &[u8]| {
        let mut out = vec![field << 3 | 2];
        let mut length = content.len();
        while length >= 128 {
            out.push((length & 127) as u8 | 128);
            length >>= 7;
        }
        out.push(length as u8);
        out.extend(content);
        out
    };
    let tensor =
        |name: &str| [vec![8, 100, 8, 64, 16, 1], bytes(8, name.as_bytes()), bytes(9, &[0; 64])].concat();
    let graph = [bytes(5, &tensor("a")), bytes(5, &tensor("b")), bytes(2, b"graph")].concat();
    [vec![8, 8], bytes(7, &graph)].concat()
}

#[test]
fn safetensors_give_the_architecture() {
    let file = read(&safetensors()).unwrap();
    let spec = &file.spec;
    assert_eq!(
        (file.form, spec.layers, spec.hidden, spec.ffn, spec.vocab),
        ("safetensors", 2, 256, 512, 100)
    );
    assert_eq!((spec.heads, spec.kv_heads, spec.head_dim, spec.gated_ffn), (4, 2, 64, true));
    assert_eq!(spec.family, Family::Decoder);
    assert_eq!(spec.params(), file.params);
    assert_eq!((file.quant.name, file.quant.bits), ("bf16", 16.0));
}

#[test]
fn an_index_joins_files_beside_it_and_no_others() {
    let folder = std::env::temp_dir().join(format!("partita-shard-index-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a.safetensors"), safetensors()).unwrap();
    let index = folder.join("model.safetensors.index.json");
    std::fs::write(&index, r#"{"metadata":{},"weight_map":{"x":"a.safetensors","y":"a.safetensors"}}"#)
        .unwrap();
    assert_eq!(header::read(&index).unwrap().spec.layers, 2);
    for name in ["../a.safetensors", "/etc/passwd", "absent", ""] {
        std::fs::write(&index, format!(r#"{{"weight_map":{{"x":"{name}"}}}}"#)).unwrap();
        assert_eq!(header::read(&index).unwrap_err().code.as_str(), "S006", "{name}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn gguf_gives_the_architecture_and_real_bits() {
    let file = read(&gguf()).unwrap();
    let spec = &file.spec;
    assert_eq!((file.form, spec.layers, spec.hidden, spec.heads, spec.kv_heads), ("gguf", 2, 256, 4, 2));
    assert_eq!((spec.vocab, spec.context), (100, 4096));
    assert_eq!((file.quant.name, file.quant.bits), ("q4_k", 4.5));
}

#[test]
fn onnx_counts_initializers_without_their_data() {
    let many: Vec<u8> = onnx();
    let error = read(&many).unwrap_err();
    // 12,800 parameters are fewer than any model the planner guesses at.
    assert!(error.message.contains("12800"), "{error}");
}

#[test]
fn hostile_headers_are_letters() {
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend([0; 64]);
    let mut deep = b"GGUF".to_vec();
    deep.extend(3_u32.to_le_bytes());
    deep.extend(u64::MAX.to_le_bytes());
    deep.extend(u64::MAX.to_le_bytes());
    let mut long = 40_u64.to_le_bytes().to_vec();
    long.extend(b"{\"a\":{\"dtype\":\"F32\",\"shape\":[18446744073709551615,9],\"data_offsets\":[0,1]}}");
    for bytes in [&huge[..], &deep, &long, b"", b"GGUF", b"\x02\0\0\0\0\0\0\0{}", &[0xff; 100], &[0x0b; 10]] {
        assert_eq!(read(bytes).unwrap_err().code.as_str(), "S006", "{bytes:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn damaged_files_never_panic(
        which in 0_usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = [safetensors(), gguf(), onnx()][which].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len().min(2000));
            bytes[at] = value;
        }
        let _ = read(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        let _ = read(&bytes);
    }
}

//! Predictions against published measurements. A cost model that misses these is wrong whatever else it does.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

use partita_hw::{
    Bound, CostTable, Device, Driver, Estimate, Fit, Kind, Machine, Measurement, Precision, Profiles, Work,
    WorkKind, estimate, price, transfer_us,
};

fn device(profile: &str) -> Device {
    let profiles = Profiles::builtin().unwrap();
    let profile = profiles.get(profile).unwrap();
    let mut device = Device::new("d", Driver::Sim, profile.kind, Some(profile));
    device.fill_defaults();
    device
}

fn cost(profile: &str, work: &Work) -> Estimate {
    estimate(&device(profile), work).unwrap()
}

/// One decoding step: every weight is read once; kernels per layer as frameworks launch them.
fn decode(parameters: f64, bytes_each: f64, layers: u32, precision: Precision) -> Work {
    let mut work = Work::new(WorkKind::Dense).with_flops(precision, 2.0 * parameters);
    work.weight_bytes = parameters * bytes_each;
    work.launches = layers * 10;
    work
}

#[test]
fn decoding_llama_8b_on_h200() {
    // vLLM performance CI, build 9515: H200, bf16, 6.51 ms per step, weight-streaming floor 3.35 ms.
    let got = cost("nvidia-h200-sxm-141gb", &decode(8.03e9, 2.0, 32, Precision::Bf16));
    assert_eq!(got.bound, Bound::Memory);
    assert!((0.45..0.65).contains(&(3350.0 / got.time_us)), "{got:?}");
    assert!((got.time_us / 6510.0 - 1.0).abs() < 0.15, "{got:?}");
}

#[test]
fn decoding_llama_70b_on_two_h100() {
    // NIM 1.8.0, 2x H100, fp8, tensor parallel 2: 18.58 ms per token, floor 10.53 ms. Each GPU streams half.
    let got = cost("nvidia-h100-sxm5-80gb", &decode(70.55e9 / 2.0, 1.0, 80, Precision::Fp8));
    assert!((0.45..0.65).contains(&(10530.0 / got.time_us)), "{got:?}");
    assert!((got.time_us / 18580.0 - 1.0).abs() < 0.15, "{got:?}");
}

#[test]
fn prefilling_llama_70b_on_two_h100() {
    // The same system: 5000 tokens are 0.717 PFLOP and take 406.8 ms, 45 % of the fp8 dense peak.
    let mut work = Work::new(WorkKind::Dense).with_flops(Precision::Fp8, 0.717e15 / 2.0);
    work.weight_bytes = 70.55e9 / 2.0;
    work.launches = 800;
    let got = cost("nvidia-h100-sxm5-80gb", &work);
    assert_eq!(got.bound, Bound::Compute);
    let share = 0.717e15 / 2.0 / (1978.9e6 * got.time_us);
    assert!((0.40..0.50).contains(&share), "{share}");
    assert!((got.time_us / 406_770.0 - 1.0).abs() < 0.15, "{got:?}");
}

#[test]
fn rows_the_constants_were_not_fitted_to() {
    // vLLM performance CI, build 9515, bf16, batch 8. Mixtral 8x7B, 2x H200: 14.98 ms per step, all 46.7e9 weights
    // read. Llama 70B, 4x H200: 16.23 ms, of which the four GPUs' exchange is no part of this estimate.
    let mixtral = cost("nvidia-h200-sxm-141gb", &decode(46.7e9 / 2.0, 2.0, 32, Precision::Bf16));
    assert!((mixtral.time_us / 14_980.0 - 1.0).abs() < 0.10, "{mixtral:?}");
    let llama = cost("nvidia-h200-sxm-141gb", &decode(70.55e9 / 4.0, 2.0, 80, Precision::Bf16));
    assert!((0.45..0.65).contains(&(7350.0 / llama.time_us)), "{llama:?}");
    assert!(llama.time_us < 16_230.0, "{llama:?}");
}

#[test]
fn decoding_llama_70b_on_576_groq_chips() {
    // Published: about 300 tokens per second and user, 3.33 ms each, where streaming alone would take 1.5 us. The
    // layers follow one another through the chips, so launches add up while each chip reads its share only.
    let mut work = decode(69.0e9 / 576.0, 1.0, 80, Precision::Int8);
    work.launches = 80 * 8;
    let got = cost("groq-lpu1", &work);
    assert_eq!(got.bound, Bound::Launch);
    assert!((got.time_us / 3330.0 - 1.0).abs() < 0.10, "{got:?}");
}

#[test]
fn matrix_products_stay_below_the_best_ever_measured() {
    // Best bf16 product over dense peak: H100 0.803, MI300X 0.514, A100 SXM 0.869.
    let rows = [("nvidia-h100-sxm5-80gb", 0.803), ("amd-mi300x", 0.514), ("nvidia-a100-sxm4-80gb", 0.869)];
    for (id, best) in rows {
        let flops = 2.0 * 8192.0_f64.powi(3);
        let got = cost(id, &Work::new(WorkKind::Dense).with_flops(Precision::Bf16, flops));
        let peak = device(id).dense[&Precision::Bf16].value;
        let share = flops / (peak * 1e6 * got.compute_us);
        assert!(share <= best && share > best / 2.0, "{id}: {share}");
    }
}

#[test]
fn handing_over_a_kv_cache() {
    // 512 tokens of a 70B model are 168 MB: 3.0 ms over PCIe 5.
    let text = "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\n[[device]]\nname = \"gpu0\"\n\
        driver = \"sim\"\nprofile = \"nvidia-h100-sxm5-80gb\"\n";
    let machine = Machine::parse("m", text, &Profiles::builtin().unwrap()).unwrap();
    let us = transfer_us(&machine.path(0, 1).unwrap(), 512.0 * 327_680.0);
    assert!((us / 3000.0 - 1.0).abs() < 0.05, "{us}");
}

#[test]
fn two_cores_running_bert_like_products() {
    // Two Zen 5 cores: 530 GFLOPS peak; whole transformer models run at 77 to 84 % of peak on the best engines.
    let text =
        "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\ndense.fp32 = 0.53\nbandwidth_gbs = 72\n";
    let machine = Machine::parse("m", text, &Profiles::builtin().unwrap()).unwrap();
    let work = Work::new(WorkKind::Dense).with_flops(Precision::Fp32, 22.5e9).with_bytes(2e6, 2e6, 340e6);
    let got = estimate(&machine.devices[0], &work).unwrap();
    let share = 22.5e9 / (0.53e6 * got.time_us);
    assert!((0.77..0.84).contains(&share), "{share}");
}

#[test]
fn small_work_on_a_cpu_stays_in_cache() {
    let text = "schema = 1\n[[device]]\nname = \"cpu0\"\ndriver = \"cpu\"\nbandwidth_gbs = 70\n\
        caches = [{ level = 3, kind = \"unified\", bytes = 33554432 }]\n";
    let machine = Machine::parse("m", text, &Profiles::builtin().unwrap()).unwrap();
    let us = |bytes: f64| {
        let work = Work::new(WorkKind::Move).with_bytes(bytes / 2.0, bytes / 2.0, 0.0);
        estimate(&machine.devices[0], &work).unwrap().memory_us
    };
    assert!(us(2e6) * 30.0 < us(60e6) / 2.0);
}

#[test]
fn devices_without_published_rates_are_not_candidates() {
    let work = Work::new(WorkKind::Dense).with_flops(Precision::Fp32, 1.0);
    assert_eq!(estimate(&device("cerebras-wse3"), &work), None);
    assert_eq!(estimate(&device("apple-m1-ane"), &work), None);
    // bf16 only, and not a TPU: nobody allowed reduced precision.
    let mut npu = Device::new("n", Driver::Sim, Kind::Npu, None);
    npu.dense.extend(device("google-tpu-v4").dense);
    assert_eq!(estimate(&npu, &work), None);
    npu.f32_as = Some(Precision::Bf16);
    assert!(estimate(&npu, &work).is_some());
}

#[test]
fn measured_beats_formula() {
    let text = "schema = 1\n[[entry]]\ndevice = \"d\"\nkernel = \"gemm \\\"a\\\"\"\nus = 12.5\n\
        origin = \"median of 20\"\ndate = \"2026-11-01\"\nsamples = 20\n";
    let mut table = CostTable::parse("costs.toml", text).unwrap();
    let work = Work::new(WorkKind::Dense).with_flops(Precision::Bf16, 1e9);
    let gpu = device("nvidia-h100-sxm5-80gb");
    let got = price(&table, &gpu, "gemm \"a\"", &work).unwrap();
    assert_eq!((got.time_us, got.bound), (12.5, Bound::Measured));
    assert_eq!(got.origin, "measured: median of 20 (2026-11-01)");
    assert_eq!(price(&table, &gpu, "other", &work), estimate(&gpu, &work));
    let newer =
        Measurement { us: 0.1, origin: "trace".to_owned(), date: "2026-11-02".to_owned(), samples: None };
    table.insert("d", "gemm \"a\"", newer);
    let again = CostTable::parse("costs.toml", &table.to_toml()).unwrap();
    assert_eq!(again, table);
    assert_eq!(again.get("d", "gemm \"a\"").unwrap().us, 0.1);
}

#[test]
fn cost_table_errors_are_located() {
    let entry = "[[entry]]\ndevice = \"d\"\nkernel = \"k\"\nus = 1\norigin = \"o\"\ndate = \"2026-01-01\"\n";
    let error = |text: &str| CostTable::parse("c.toml", text).unwrap_err().to_string();
    assert!(
        error(&format!("schema = 1\n{entry}{entry}")).starts_with("c.toml:8:1: H009: k on d is listed twice")
    );
    assert!(
        error(&format!("schema = 1\n{}", entry.replace("us = 1", "us = 0"))).starts_with("c.toml:5:6: H005")
    );
    assert!(
        error(&format!("schema = 1\n{entry}unit = \"ms\"\n")).contains("H002: entry 1 has no field `unit`")
    );
    assert!(error(&format!("schema = 1\n{}", entry.replace("us = 1\n", ""))).contains("H004"));
}

fn fit(launch: f64, byte: f64) -> Fit {
    let ns = [("launch", launch), ("byte read, far", byte)].map(|(name, ns)| (name.to_owned(), ns));
    Fit { grain: 4096.0, ns: ns.into(), samples: 7, origin: "test".to_owned(), date: "2026-11-01".to_owned() }
}

#[test]
fn fits_are_kept_by_class_and_threads() {
    let mut table = CostTable::default();
    table.processor = Some("a \"processor\"".to_owned());
    table.far_bytes = Some(1.5e7);
    for (class, threads) in [("gemm", 8), ("conv", 1), ("gemm", 2)] {
        table.insert_fit("cpu0", class, threads, fit(f64::from(threads), 0.01));
    }
    let text = table.to_toml();
    let again = CostTable::parse("costs.toml", &text).unwrap();
    assert_eq!((&again, again.to_toml()), (&table, text));
    let launch = |threads| table.fit("cpu0", "gemm", threads).map(|fit| fit.ns["launch"]);
    // The most threads that were measured and are there; fewer than any: the fewest.
    assert_eq!([1, 2, 7, 8, 64].map(launch), [2.0, 2.0, 2.0, 8.0, 8.0].map(Some));
    assert_eq!(table.fit("cpu0", "pool", 2), None);
    assert_eq!(table.fit("cpu1", "gemm", 2), None);
    let amounts = [("launch", 1.0), ("byte read, far", 1e6), ("unknown", 1e9)];
    assert!((fit(500.0, 0.01).time_us(amounts.into_iter()) - 10.5).abs() < 1e-9);
}

#[test]
fn errors_in_fits_are_located() {
    let good = "[[fit]]\ndevice = \"d\"\nclass = \"gemm\"\nthreads = 1\ngrain = 0.0\n\
        ns = { launch = 100.0 }\nsamples = 3\norigin = \"o\"\ndate = \"2026-01-01\"\n";
    let read = |text: &str| CostTable::parse("c.toml", &format!("schema = 1\n{text}"));
    let error = |text: &str| read(text).unwrap_err().to_string();
    assert!(read(good).is_ok());
    let twice = error(&format!("{good}{good}"));
    assert!(twice.starts_with("c.toml:11:1: H009: gemm on d with 1 threads is listed twice"), "{twice}");
    for (from, to, code) in [
        ("launch = 100.0", "launch = -1", "H005"),
        ("launch = 100.0", "launch = \"fast\"", "H003"),
        ("threads = 1\n", "", "H004"),
        ("ns = { launch = 100.0 }\n", "", "H004"),
        ("samples = 3", "samples = 3\nspeed = 1", "H002"),
    ] {
        let text = error(&good.replace(from, to));
        assert!(text.contains(code), "{to}: {text}");
    }
}

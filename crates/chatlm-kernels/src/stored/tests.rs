#![expect(clippy::unwrap_used, reason = "tests")]

use proptest::prelude::*;

use super::*;
use crate::cpu::Cpu;

fn values(count: usize, seed: u32) -> Vec<f32> {
    let mut state = seed | 1;
    (0..count)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect()
}

const KINDS: [StoredKind; 4] = [
    StoredKind::F32,
    StoredKind::F16,
    StoredKind::Bf16,
    StoredKind::Int8,
];

/// The product in f64 over the weight's own values and the input as the kind rounds it.
fn expected(x: &[f32], rows: usize, weight: &Stored) -> Vec<f64> {
    let (out, inner) = weight.shape();
    let w = weight.to_f32().unwrap();
    let round = |row: &[f32]| -> Vec<f64> {
        let largest = row.iter().fold(0.0f32, |a, v| a.max(v.abs()));
        let scale = largest / 127.0;
        let rounded = |&v: &f32| match weight.kind() {
            StoredKind::F32 | StoredKind::F16 => f64::from(v),
            StoredKind::Bf16 => half::bf16::from_f32(v).to_f64(),
            StoredKind::Int8 if scale > 0.0 => {
                f64::from((v * (127.0 / largest)).round_ties_even()) * f64::from(scale)
            }
            StoredKind::Int8 => 0.0,
        };
        row.iter().map(rounded).collect()
    };
    let mut all = Vec::new();
    for row in x.chunks(inner).take(rows) {
        let row = round(row);
        for w in w.chunks(inner).take(out) {
            all.push(w.iter().zip(&row).map(|(&w, x)| f64::from(w) * x).sum());
        }
    }
    all
}

fn run(x: &[f32], rows: usize, weight: &Stored, scale: f32) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * weight.shape().0];
    let job = Job {
        weight,
        scale,
        out: &mut out,
    };
    products(x, rows, &mut [job]).unwrap();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn products_are_those_of_the_rounded_values(
        rows in 1usize..19, out in 1usize..100, inner in 1usize..300, seed: u32, kind in 0usize..4,
    ) {
        let (x, w) = (values(rows * inner, seed), values(out * inner, !seed));
        let weight = Stored::rounded(&w, (out, inner), KINDS[kind]);
        let got = run(&x, rows, &weight, 0.5);
        for (got, want) in got.iter().zip(expected(&x, rows, &weight)) {
            let error = (f64::from(*got) - 0.5 * want).abs();
            prop_assert!(error < 1e-5 * inner as f64, "{got} for {want}");
        }
        // The largest of each row, without the product.
        let best = largest(&x, rows, &weight, 1.0).unwrap();
        let whole = run(&x, rows, &weight, 1.0);
        for (best, row) in best.iter().zip(whole.chunks(out)) {
            let id = best.unwrap() as usize;
            let first = row.iter().position(|v| row.iter().all(|w| w <= v)).unwrap();
            prop_assert_eq!(id, first);
        }
    }

    #[test]
    fn a_row_is_the_same_beside_any_others(
        rows in 2usize..80, out in 1usize..50, inner in 1usize..200, seed: u32, kind in 0usize..4,
    ) {
        let (x, w) = (values(rows * inner, seed), values(out * inner, !seed));
        let weight = Stored::rounded(&w, (out, inner), KINDS[kind]);
        let all = run(&x, rows, &weight, 1.0);
        for row in [0, rows / 2, rows - 1] {
            let alone = run(&x[row * inner..(row + 1) * inner], 1, &weight, 1.0);
            prop_assert_eq!(&alone[..], &all[row * out..(row + 1) * out]);
        }
    }
}

#[test]
#[expect(unsafe_code, reason = "kernels are called by address")]
fn every_path_sums_int8_to_the_same_bits_and_floats_nearly() {
    let k = 777;
    let w: Vec<u8> = (0..TILE * k).map(|i| (i * 31 % 256) as u8).collect();
    let x: Vec<i8> = (0..k).map(|i| (i * 17 % 255) as u8 as i8).collect();
    let floats = values((TILE + 1) * k, 5);
    let mut seen: Option<(Sums, Sums)> = None;
    for cpu in Cpu::ALL.into_iter().filter(|cpu| cpu.available()) {
        let (mut int8, mut f32s): (Sums, Sums) = ([0; TILE * WIDE], [0; TILE * WIDE]);
        // SAFETY: the processor has the path, and the rows are as long as they say.
        unsafe {
            let tiles = Tiles::of(cpu, StoredKind::Int8);
            (tiles.narrow)(w.as_ptr(), k, x.as_ptr().cast(), k, k, &mut int8);
            let tiles = Tiles::of(cpu, StoredKind::F32);
            let (w, x) = (floats.as_ptr().cast(), floats[TILE * k..].as_ptr().cast());
            (tiles.narrow)(w, 4 * k, x, 4 * k, k, &mut f32s);
        }
        let (first_int8, first_f32s) = seen.get_or_insert((int8, f32s));
        assert_eq!(*first_int8, int8, "{}", cpu.name());
        for (a, b) in first_f32s.iter().zip(f32s) {
            assert!((f32::from_bits(*a) - f32::from_bits(b)).abs() < 1e-4);
        }
    }
}

#[test]
fn what_is_not_finite_stays_so() {
    for kind in KINDS {
        let mut w = values(40 * 64, 3);
        w[64 * 7 + 3] = f32::NAN;
        let weight = Stored::rounded(&w, (40, 64), kind);
        let x = values(64, 9);
        let y = run(&x, 1, &weight, 1.0);
        assert!(y[7].is_nan() && y[8].is_finite(), "{kind:?}");
        assert_eq!(largest(&x, 1, &weight, 1.0).unwrap(), [None]);
        let good = Stored::rounded(&values(40 * 64, 3), (40, 64), kind);
        let mut x = x;
        x[5] = f32::INFINITY;
        assert!(run(&x, 1, &good, 1.0).iter().all(|v| !v.is_finite()));
    }
}

#[test]
fn mapped_memory_gives_the_bits_of_its_own() {
    let (w, x) = (values(24 * 32, 1), values(32, 2));
    let weight = Stored::rounded(&w, (24, 32), StoredKind::Int8);
    let (bytes, scales) = weight.int8().unwrap();
    let mut file: Vec<u8> = scales.iter().flat_map(|v| v.to_le_bytes()).collect();
    let at = file.len();
    file.extend(bytes);
    let folder = std::env::temp_dir().join(format!("chatlm-stored-{}", std::process::id()));
    std::fs::write(&folder, &file).unwrap();
    let map = Arc::new(Mapping::open(&folder).unwrap());
    let mapped = Stored::mapped(&map, (24, 32), StoredKind::Int8, at, Some(0)).unwrap();
    assert_eq!(run(&x, 1, &mapped, 1.0), run(&x, 1, &weight, 1.0));
    assert!(Stored::mapped(&map, (24, 32), StoredKind::F32, 0, None).is_none());
    assert!(Stored::mapped(&map, (2, 2), StoredKind::F32, 2, None).is_none());
    std::fs::remove_file(folder).unwrap();
}

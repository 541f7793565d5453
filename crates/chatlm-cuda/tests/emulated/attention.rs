use crate::common::attend::Plain;
use crate::common::{close, differences, in_every_order, random, rounded, tolerance, wide};
use chatlm_cuda::attention::{Attention, Bias, Forward, Gradients};
use chatlm_cuda::{Dropout, Element};
use chatlm_job::mix;

struct Case {
    heads: usize,
    width: usize,
    causal: bool,
    queries: Vec<u32>,
    keys: Vec<u32>,
    biased: bool,
    rate: f64,
}

fn starts(lengths: &[u32]) -> Vec<u32> {
    let mut starts = vec![0];
    for length in lengths {
        starts.push(starts[starts.len() - 1] + length);
    }
    starts
}

fn case(heads: usize, width: usize, causal: bool, queries: &[u32], keys: &[u32]) -> Case {
    Case {
        heads,
        width,
        causal,
        queries: starts(queries),
        keys: starts(keys),
        biased: true,
        rate: 0.0,
    }
}

/// chatlm-kernels' hash, for one value.
fn factor(key: u64, place: usize, threshold: u32, scale: f32) -> f64 {
    let mut h = (place as u32).wrapping_add(key as u32);
    h = (h ^ (h >> 16)).wrapping_mul(0x7FEB_352D);
    h = (h ^ (h >> 15))
        .wrapping_add((key >> 32) as u32)
        .wrapping_mul(0x846C_A68B);
    h ^= h >> 16;
    if h >= threshold {
        f64::from(scale)
    } else {
        0.0
    }
}

fn run(case: &Case, element: Element) {
    let inner = case.heads * case.width;
    let (places, key_places) = (
        *case.queries.last().unwrap() as usize,
        *case.keys.last().unwrap() as usize,
    );
    let lengths = |starts: &[u32]| starts.windows(2).map(|e| e[1] - e[0]).max().unwrap();
    // One more than needed, as a cached bias may be.
    let longest = lengths(&case.queries).max(lengths(&case.keys)) as usize + 1;
    let values = |count, key, size| rounded(element, &random(count * inner, key, size));
    let (q, k) = (values(places, 1, 0.7), values(key_places, 2, 0.7));
    let (v, g) = (values(key_places, 3, 1.0), values(places, 4, 1.0));
    let lines = random(case.heads * (2 * longest - 1), 5, 1.0);
    let keys: Vec<u64> = (0..case.queries.len() as u64 - 1)
        .map(|row| mix(77, row))
        .collect();
    let threshold = (case.rate * 4_294_967_296.0) as u32;
    let scale = (1.0 / (1.0 - case.rate)) as f32;
    let drop = Dropout {
        keys: &keys,
        threshold,
        scale,
    };
    let found = in_every_order(|on| {
        let op = Attention {
            element,
            heads: case.heads,
            width: case.width,
            causal: case.causal,
            queries: &case.queries,
            keys: &case.keys,
            bias: case.biased.then(|| Bias {
                lines: on.f32(&lines),
                longest,
            }),
            drop: (case.rate > 0.0).then_some(drop),
        };
        let with = Forward {
            q: on.put(element, &q),
            k: on.put(element, &k),
            v: on.put(element, &v),
            out: on.room_for(element, q.len()),
            norms: on.room((places * case.heads * 4) as u64),
        };
        op.forward(on, &with).unwrap();
        let to = Gradients {
            out: on.put(element, &g),
            dq: on.room_for(element, q.len()),
            dk: on.room_for(element, k.len()),
            dv: on.room_for(element, v.len()),
            lines: case.biased.then(|| on.room(lines.len() as u64 * 4)),
        };
        op.backward(on, &with, &to).unwrap();
        let mut all = vec![on.get(element, with.out), on.get(Element::F32, with.norms)];
        all.extend([to.dq, to.dk, to.dv].map(|memory| on.get(element, memory)));
        all.extend(to.lines.map(|lines| on.get(Element::F32, lines)));
        all
    });
    let mask = |row: usize, head: usize, query: usize, key: usize| {
        if case.rate == 0.0 {
            return 1.0;
        }
        factor(
            mix(mix(keys[row], query as u64), head as u64),
            key,
            threshold,
            scale,
        )
    };
    let bias = if case.biased {
        wide(&lines)
    } else {
        Vec::new()
    };
    let plain = Plain {
        heads: case.heads,
        width: case.width,
        causal: case.causal,
        queries: &case.queries,
        keys: &case.keys,
        bias: &bias,
        longest,
        mask: &mask,
    };
    let (q, k, v, g) = (wide(&q), wide(&k), wide(&v), wide(&g));
    let (out, norms) = plain.forward(&q, &k, &v);
    close("out", &found[0], &out, tolerance(element));
    for (found, expected) in found[1].iter().zip(&norms) {
        let same = f64::from(*found) == *expected;
        assert!(
            same || (f64::from(*found) - expected).abs() < 1e-4,
            "norm {found}, not {expected}"
        );
    }
    let to = plain.backward(&q, &k, &v, &g);
    // Σ dy·y reads the output as it is kept.
    let off = tolerance(element) * 3.0;
    close("dq", &found[2], &to.q, off);
    close("dk", &found[3], &to.k, off);
    close("dv", &found[4], &to.v, off);
    if case.biased {
        close("bias", &found[5], &to.bias, off);
    }
}

#[test]
fn the_reference_backward_is_the_forwards_slope() {
    let one = case(2, 3, true, &[3, 1], &[3, 1]);
    let bias = wide(&random(2 * 5, 5, 1.0));
    let mask = |_: usize, _: usize, query: usize, key: usize| if query == key { 0.0 } else { 1.5 };
    let plain = |bias| Plain {
        heads: 2,
        width: 3,
        causal: true,
        queries: &one.queries,
        keys: &one.keys,
        bias,
        longest: 3,
        mask: &mask,
    };
    let [q, k, v, g] = [1, 2, 3, 4].map(|key| wide(&random(24, key, 1.0)));
    let total = |bias: &[f64], q: &[f64], k: &[f64], v: &[f64]| -> f64 {
        let Plain { longest, .. } = plain(&[]);
        let made = Plain {
            bias,
            longest,
            ..plain(&[])
        };
        made.forward(q, k, v)
            .0
            .iter()
            .zip(&g)
            .map(|(y, g)| y * g)
            .sum()
    };
    let to = plain(&bias).backward(&q, &k, &v, &g);
    for (found, slope) in [
        (&to.q, differences(&q, |q| total(&bias, q, &k, &v))),
        (&to.k, differences(&k, |k| total(&bias, &q, k, &v))),
        (&to.v, differences(&v, |v| total(&bias, &q, &k, v))),
        (&to.bias, differences(&bias, |bias| total(bias, &q, &k, &v))),
    ] {
        let found: Vec<f32> = found.iter().map(|&x| x as f32).collect();
        close("slope", &found, &slope, 1e-6);
    }
}

#[test]
fn rows_of_odd_lengths() {
    for element in Element::ALL {
        run(&case(3, 8, true, &[1, 31, 33], &[1, 31, 33]), element);
        run(&case(2, 8, false, &[33, 1, 64], &[33, 1, 64]), element);
    }
    run(&case(12, 64, true, &[33, 2], &[33, 2]), Element::F32);
    run(&case(1, 64, false, &[200], &[200]), Element::F32);
    run(&case(1, 64, true, &[200], &[200]), Element::BF16);
}

#[test]
fn widths_beyond_and_between_the_tiles() {
    for width in [1, 32, 33, 100, 128] {
        run(&case(2, width, true, &[35], &[35]), Element::F32);
    }
}

#[test]
fn queries_over_other_keys_some_without_any() {
    let mut cross = case(2, 16, false, &[3, 40, 0, 5], &[70, 1, 9, 0]);
    run(&cross, Element::F32);
    cross.biased = false;
    run(&cross, Element::F32);
}

#[test]
fn dropout_is_the_processors() {
    for causal in [false, true] {
        let mut one = case(3, 16, causal, &[37, 5], &[37, 5]);
        one.rate = 0.25;
        run(&one, Element::F32);
    }
}

/// The twin is chatlm-kernels' own operator on the processor, dropout and bias buckets included.
#[test]
fn equals_the_processors_operator() {
    use candle_core::{Device, Tensor};
    use chatlm_kernels::{
        DropoutKeys, Gradients as Sums, Precision, RelativeBias, Rows, Tape, Weight,
    };
    use std::sync::Arc;
    let (heads, width, lengths) = (2usize, 16usize, [40u32, 7]);
    let (rows, starts) = (Arc::new(Rows::new(&[40, 7])), starts(&lengths));
    let (inner, places) = (heads * width, 47);
    let [q, k, v, g] = [1, 2, 3, 4].map(|key| random(places * inner, key, 0.7));
    // A bucket a distance, so that the table is the lines.
    let longest = 40;
    let lines = random(heads * (2 * longest - 1), 5, 1.0);
    let table: Vec<f32> = (0..lines.len())
        .map(|at| lines[at % heads * (2 * longest - 1) + at / heads])
        .collect();
    let tensor = |x: &[f32]| Tensor::from_slice(x, (places, inner), &Device::Cpu).unwrap();
    let table = Tensor::from_vec(table, (2 * longest - 1, heads), &Device::Cpu).unwrap();
    let bias = RelativeBias {
        weight: Weight::new(table, Some(0)),
        buckets: Arc::new((0..2 * longest as u32 - 1).collect()),
    };
    let drop = DropoutKeys {
        rows: vec![11, 12],
        rate: 0.1,
    };
    let tape = Tape::new(Precision::F32);
    let leaves = [&q, &k, &v].map(|x| tape.leaf(tensor(x)));
    let [a, b, c] = &leaves;
    let y = chatlm_kernels::attention(
        &tape,
        (a, b, c),
        heads,
        Some(&bias),
        &rows,
        &rows,
        true,
        Some((&drop, 3)),
    )
    .unwrap();
    let expected = wide(&y.tensor().flatten_all().unwrap().to_vec1().unwrap());
    let mut sums = Sums::new(vec![lines.len()]);
    let gradients = tape
        .backward_to(&[a, b, c], vec![(y, tensor(&g))], &mut sums)
        .unwrap();
    let keys = [mix(11, 3), mix(12, 3)];
    let threshold = (0.1f64 * 4_294_967_296.0).round();
    let found = in_every_order(|on| {
        let op = Attention {
            element: Element::F32,
            heads,
            width,
            causal: true,
            queries: &starts,
            keys: &starts,
            bias: Some(Bias {
                lines: on.f32(&lines),
                longest,
            }),
            drop: Some(Dropout {
                keys: &keys,
                threshold: threshold as u32,
                scale: (1.0 / (1.0 - threshold / 4_294_967_296.0)) as f32,
            }),
        };
        let room = || on.room_for(Element::F32, q.len());
        let with = Forward {
            q: on.f32(&q),
            k: on.f32(&k),
            v: on.f32(&v),
            out: room(),
            norms: on.room((places * heads * 4) as u64),
        };
        op.forward(on, &with).unwrap();
        let to = Gradients {
            out: on.f32(&g),
            dq: room(),
            dk: room(),
            dv: room(),
            lines: Some(on.room(lines.len() as u64 * 4)),
        };
        op.backward(on, &with, &to).unwrap();
        [with.out, to.dq, to.dk, to.dv, to.lines.unwrap()]
            .map(|m| on.get(Element::F32, m))
            .to_vec()
    });
    close("out", &found[0], &expected, 5e-6);
    for (found, expected) in found[1..4].iter().zip(&gradients) {
        let expected = wide(&expected.flatten_all().unwrap().to_vec1().unwrap());
        close("gradient", found, &expected, 5e-6);
    }
    let table = sums.get(0).unwrap();
    let expected: Vec<f64> = (0..lines.len())
        .map(|at| f64::from(table[at % (2 * longest - 1) * heads + at / (2 * longest - 1)]))
        .collect();
    close("bias", &found[4], &expected, 5e-6);
}

#[test]
fn nan_stays_with_its_head_and_row() {
    let starts = starts(&[3, 3]);
    let mut q = random(6 * 16, 1, 1.0);
    q[16 + 9] = f32::NAN; // place 1, head 1
    let [k, v] = [2, 3].map(|key| random(6 * 16, key, 1.0));
    let found = in_every_order(|on| {
        let op = Attention {
            element: Element::F32,
            heads: 2,
            width: 8,
            causal: false,
            queries: &starts,
            keys: &starts,
            bias: None,
            drop: None,
        };
        let with = Forward {
            q: on.f32(&q),
            k: on.f32(&k),
            v: on.f32(&v),
            out: on.room(6 * 16 * 4),
            norms: on.room(6 * 2 * 4),
        };
        op.forward(on, &with).unwrap();
        vec![on.get(Element::F32, with.out)]
    });
    for (at, x) in found[0].iter().enumerate() {
        assert_eq!(x.is_nan(), at / 16 == 1 && at % 16 >= 8, "{at}: {x}");
    }
}

#[test]
fn strange_shapes_are_refused() {
    let on = crate::common::Emulator::new(0);
    let memory = on.room(1 << 16);
    let op = Attention {
        element: Element::F32,
        heads: 1,
        width: 8,
        causal: true,
        queries: &[0, 2],
        keys: &[0, 2],
        bias: None,
        drop: None,
    };
    let with = Forward {
        q: memory,
        k: memory,
        v: memory,
        out: memory,
        norms: memory,
    };
    let refused = |op: Attention<'_>| op.forward(&on, &with).unwrap_err();
    assert!(refused(Attention { width: 129, ..op }).contains("1 to 128"));
    assert!(
        refused(Attention {
            keys: &[0, 3],
            ..op
        })
        .contains("own places")
    );
    assert!(
        refused(Attention {
            keys: &[0, 3, 4],
            ..op
        })
        .contains("rows of queries")
    );
    assert!(
        refused(Attention {
            bias: Some(Bias {
                lines: memory,
                longest: 1
            }),
            ..op
        })
        .contains("a bias")
    );
    let drop = Some(Dropout {
        keys: &[],
        threshold: 1,
        scale: 1.0,
    });
    assert!(refused(Attention { drop, ..op }).contains("0 keys of dropout"));
}

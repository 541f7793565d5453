use crate::common::{close, in_every_order, random, rounded, tolerance, wide};
use chatlm_cuda::Element;
use chatlm_cuda::decode::{Cache, NONE, Step, argmax};

fn tokens(element: Element, scores: &[f32], width: usize) -> Vec<u32> {
    let rows = scores.len() / width;
    let found = in_every_order(|on| {
        let out = on.room(rows as u64 * 4);
        argmax(on, element, on.put(element, scores), (rows, width), out).unwrap();
        vec![on.get_u32(out).iter().map(|&x| f32::from_bits(x)).collect()]
    });
    found[0].iter().map(|x| x.to_bits()).collect()
}

fn first_largest(row: &[f32]) -> u32 {
    if row.iter().any(|x| !x.is_finite()) {
        return NONE;
    }
    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter().position(|&x| x == top).unwrap() as u32
}

#[test]
fn the_first_of_the_largest() {
    for (element, width) in [
        (Element::F32, 1),
        (Element::F32, 97),
        (Element::F32, 29298),
        (Element::F16, 257),
        (Element::BF16, 1000),
    ] {
        // Few values, so that the largest is there more than once.
        let scores: Vec<f32> = random(3 * width, 1, 5.0)
            .iter()
            .map(|x| x.round())
            .collect();
        let expected: Vec<u32> = scores.chunks(width).map(first_largest).collect();
        assert_eq!(tokens(element, &scores, width), expected);
    }
    assert_eq!(tokens(Element::F32, &[-3.0; 300], 300), [0]);
}

#[test]
fn what_is_not_finite_is_no_token() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for place in [0, 150, 299] {
            let mut scores = random(3 * 300, 1, 5.0);
            scores[300 + place] = bad;
            let found = tokens(Element::F32, &scores, 300);
            assert_eq!(found[1], NONE);
            assert_eq!(
                [found[0], found[2]],
                [0, 2].map(|row| first_largest(&scores[row * 300..][..300]))
            );
        }
    }
}

#[test]
fn one_query_over_a_cache() {
    for (element, heads, width, room, lengths) in [
        (Element::F32, 12, 64, 40, vec![1, 31, 33, 40, 0]),
        (Element::F32, 2, 8, 200, vec![200, 3]),
        (Element::F32, 1, 100, 7, vec![5]),
        (Element::F16, 3, 64, 33, vec![33, 2]),
        (Element::BF16, 3, 33, 33, vec![31]),
    ] {
        let (rows, line) = (lengths.len(), heads * width);
        let q = rounded(element, &random(rows * line, 1, 0.7));
        let mut k = rounded(element, &random(rows * line * room, 2, 0.7));
        let mut v = rounded(element, &random(rows * line * room, 3, 1.0));
        // What is behind a row's keys is whatever was there.
        for (row, &length) in lengths.iter().enumerate() {
            for head in 0..heads {
                let from = (row * heads + head) * room * width;
                for cache in [&mut k, &mut v] {
                    cache[from + length as usize * width..from + room * width].fill(f32::NAN);
                }
            }
        }
        let bias = random(heads * room, 4, 1.0);
        for biased in [true, false] {
            let found = in_every_order(|on| {
                let step = Step {
                    element,
                    heads,
                    width,
                    room,
                    lengths: &lengths,
                };
                let with = Cache {
                    q: on.put(element, &q),
                    k: on.put(element, &k),
                    v: on.put(element, &v),
                    bias: biased.then(|| on.f32(&bias)),
                    out: on.room_for(element, rows * line),
                };
                step.attention(on, &with).unwrap();
                vec![on.get(element, with.out)]
            });
            let (q, k, v) = (wide(&q), wide(&k), wide(&v));
            let mut expected = vec![0.0; rows * line];
            for (at, out) in expected.chunks_mut(width).enumerate() {
                let (row, head) = (at / heads, at % heads);
                let keys = lengths[row] as usize;
                let key = |key: usize| (at * room + key) * width;
                let scores: Vec<f64> = (0..keys)
                    .map(|i| {
                        let dot: f64 = (0..width).map(|c| q[at * width + c] * k[key(i) + c]).sum();
                        dot + if biased {
                            f64::from(bias[head * room + i])
                        } else {
                            0.0
                        }
                    })
                    .collect();
                let total: f64 = scores.iter().map(|s| s.exp()).sum();
                for (i, score) in scores.iter().enumerate() {
                    for c in 0..width {
                        out[c] += score.exp() / total * v[key(i) + c];
                    }
                }
            }
            close("step", &found[0], &expected, tolerance(element));
        }
    }
}

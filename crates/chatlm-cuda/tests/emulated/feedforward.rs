use crate::common::{close, in_every_order, random, rounded, tolerance, wide};
use candle_core::{Device, Tensor};
use chatlm_cuda::embedding::Embedding;
use chatlm_cuda::feedforward::Hidden;
use chatlm_cuda::{Dropout, Element};
use chatlm_job::mix;
use chatlm_kernels::{DropoutKeys, Gradients, Precision, Rows, Tape, Value};
use std::sync::Arc;

const LENGTHS: [usize; 4] = [1, 31, 0, 33];
const PLACES: usize = 65;
const SITE: u64 = 9;

/// A case beside chatlm-kernels' operators on the processor.
struct Case {
    width: usize,
    rows: Arc<Rows>,
    keys: Option<DropoutKeys>,
    values: [Vec<f32>; 3],
}

impl Case {
    fn new(width: usize, rate: f64) -> Self {
        let keys = DropoutKeys {
            rows: vec![5, 6, 7, 8],
            rate,
        };
        Self {
            width,
            rows: Arc::new(Rows::new(&LENGTHS)),
            keys: (rate > 0.0).then_some(keys),
            values: [1, 2, 3].map(|key| random(PLACES * width, key, 2.0)),
        }
    }

    /// Result and gradients of `run` on the processor.
    fn twin(&self, run: impl Fn(&Tape, [&Value; 2]) -> Value) -> Vec<Vec<f64>> {
        let tensor = |x: &[f32]| Tensor::from_slice(x, (PLACES, self.width), &Device::Cpu).unwrap();
        let numbers = |x: &Tensor| wide(&x.flatten_all().unwrap().to_vec1().unwrap());
        let tape = Tape::new(Precision::F32);
        let (x, y) = (
            tape.leaf(tensor(&self.values[0])),
            tape.leaf(tensor(&self.values[1])),
        );
        let out = run(&tape, [&x, &y]);
        let mut all = vec![numbers(out.tensor())];
        let seeds = vec![(out, tensor(&self.values[2]))];
        all.extend(
            tape.backward_to(&[&x, &y], seeds, &mut Gradients::new(vec![]))
                .unwrap()
                .iter()
                .map(numbers),
        );
        all
    }

    fn check(found: &[Vec<f32>], expected: &[Vec<f64>]) {
        for (found, expected) in found.iter().zip(expected) {
            close("value", found, expected, 2e-6);
        }
    }
}

/// As the launchers get it.
fn with_hidden<R>(case: &Case, work: impl FnOnce(Hidden<'_>) -> R) -> R {
    let starts: Vec<u32> = [0, 1, 32, 32, 65].to_vec();
    let keys: Vec<u64> = case
        .keys
        .iter()
        .flat_map(|k| k.rows.iter().map(|&key| mix(key, SITE)))
        .collect();
    let threshold = case
        .keys
        .as_ref()
        .map_or(0.0, |k| (k.rate * 4_294_967_296.0).round());
    let drop = case.keys.as_ref().map(|_| Dropout {
        keys: &keys,
        threshold: threshold as u32,
        scale: (1.0 / (1.0 - threshold / 4_294_967_296.0)) as f32,
    });
    work(Hidden {
        element: Element::F32,
        width: case.width,
        starts: &starts,
        drop,
    })
}

#[test]
fn all_are_the_processors_with_and_without_dropout() {
    for (width, rate) in [(8, 0.0), (33, 0.1), (200, 0.5)] {
        let case = Case::new(width, rate);
        let drop = || case.keys.as_ref().map(|keys| (keys, SITE));
        let [x, y, g] = &case.values;
        with_hidden(&case, |hidden| {
            let residual = in_every_order(|on| {
                let room = || on.room_for(Element::F32, x.len());
                let (out, dy) = (room(), room());
                hidden
                    .residual(on, Some(on.f32(x)), on.f32(y), out)
                    .unwrap();
                hidden.residual(on, None, on.f32(g), dy).unwrap();
                [out, dy].map(|m| on.get(Element::F32, m)).to_vec()
            });
            let twin = case.twin(|tape, [x, y]| {
                chatlm_kernels::residual(tape, x, y, &case.rows, drop()).unwrap()
            });
            Case::check(&residual, &[twin[0].clone(), twin[2].clone()]);

            let relu = in_every_order(|on| {
                let room = || on.room_for(Element::F32, x.len());
                let (out, dx) = (room(), room());
                hidden.relu(on, on.f32(x), out).unwrap();
                hidden.relu_backward(on, out, on.f32(g), dx).unwrap();
                [out, dx].map(|m| on.get(Element::F32, m)).to_vec()
            });
            let twin = case
                .twin(|tape, [x, _]| chatlm_kernels::relu(tape, x, &case.rows, drop()).unwrap());
            Case::check(&relu, &twin[..2]);

            let gated = in_every_order(|on| {
                let room = || on.room_for(Element::F32, x.len());
                let (out, dx, dy) = (room(), room(), room());
                let (x, y) = (on.f32(x), on.f32(y));
                hidden.gated_gelu(on, x, y, out).unwrap();
                hidden
                    .gated_gelu_backward(on, [x, y, on.f32(g)], [dx, dy])
                    .unwrap();
                [out, dx, dy].map(|m| on.get(Element::F32, m)).to_vec()
            });
            let twin = case.twin(|tape, [x, y]| {
                chatlm_kernels::gated_gelu(tape, x, y, &case.rows, drop()).unwrap()
            });
            Case::check(&gated, &twin);
        });
    }
}

#[test]
fn half_precision_rounds_the_result_alone() {
    for element in [Element::F16, Element::BF16] {
        let x = rounded(element, &random(6 * 33, 1, 2.0));
        let y = rounded(element, &random(6 * 33, 2, 2.0));
        let found = in_every_order(|on| {
            let out = on.room_for(element, x.len());
            let hidden = Hidden {
                element,
                width: 33,
                starts: &[0, 6],
                drop: None,
            };
            hidden
                .residual(on, Some(on.put(element, &x)), on.put(element, &y), out)
                .unwrap();
            vec![on.get(element, out)]
        });
        let sum: Vec<f32> = x.iter().zip(&y).map(|(x, y)| x + y).collect();
        assert_eq!(found[0], rounded(element, &sum));
    }
}

#[test]
fn nan_passes_relu() {
    let found = in_every_order(|on| {
        let out = on.room(16);
        let hidden = Hidden {
            element: Element::F32,
            width: 4,
            starts: &[0, 1],
            drop: None,
        };
        hidden
            .relu(on, on.f32(&[f32::NAN, -1.0, 2.0, f32::NEG_INFINITY]), out)
            .unwrap();
        vec![on.get(Element::F32, out)]
    });
    assert!(found[0][0].is_nan() && found[0][1..] == [0.0, 2.0, 0.0]);
}

#[test]
fn rows_of_a_table_and_back() {
    for element in Element::ALL {
        for width in [1, 8, 200] {
            let (height, ids) = (11, [3u32, 0, 3, 10, 3, 0, 7]);
            let embedding = Embedding {
                element,
                height,
                width,
                ids: &ids,
            };
            let table = rounded(element, &random(height * width, 1, 1.0));
            let g = rounded(element, &random(ids.len() * width, 2, 1.0));
            let before = random(height * width, 3, 1.0);
            for add in [false, true] {
                let found = in_every_order(|on| {
                    let (out, sums) = (on.room_for(element, g.len()), on.f32(&before));
                    embedding.gather(on, on.put(element, &table), out).unwrap();
                    embedding
                        .scatter(on, on.put(element, &g), sums, add)
                        .unwrap();
                    vec![on.get(element, out), on.get(Element::F32, sums)]
                });
                let rows = ids
                    .iter()
                    .flat_map(|&id| &table[id as usize * width..(id as usize + 1) * width]);
                assert_eq!(found[0], rows.copied().collect::<Vec<_>>());
                let mut expected = wide(&before);
                for &id in &ids {
                    if !add {
                        expected[id as usize * width..(id as usize + 1) * width].fill(0.0);
                    }
                }
                for (line, &id) in g.chunks(width).zip(&ids) {
                    for (sum, g) in expected[id as usize * width..].iter_mut().zip(line) {
                        *sum += f64::from(*g);
                    }
                }
                close("table", &found[1], &expected, tolerance(Element::F32));
            }
        }
    }
}

use crate::common::{
    Emulator, close, differences, in_every_order, random, rounded, tolerance, wide,
};
use chatlm_cuda::Element;
use chatlm_cuda::norm::{Backward, Forward, Norm};

const EPS: f64 = 1e-6;

fn plain(y: &[f64], w: &[f64]) -> Vec<f64> {
    let rows = y.chunks(w.len());
    rows.flat_map(|row| {
        let scale = 1.0 / (row.iter().map(|x| x * x).sum::<f64>() / row.len() as f64 + EPS).sqrt();
        row.iter()
            .zip(w)
            .map(move |(x, w)| x * scale * w)
            .collect::<Vec<_>>()
    })
    .collect()
}

#[test]
fn sums_and_normalizes_with_gradients() {
    for element in Element::ALL {
        for (rows, width) in [
            (1, 1),
            (3, 8),
            (2, 31),
            (5, 64),
            (70, 33),
            (2, 768),
            (1, 1000),
        ] {
            let values = |key| rounded(element, &random(rows * width, key, 2.0));
            let (x, r, g, beside) = (values(1), values(2), values(3), values(4));
            let w = rounded(element, &random(width, 5, 1.0));
            let found = in_every_order(|on| {
                let y = on.room_for(element, rows * width);
                let normed = on.room_for(element, rows * width);
                let scales = on.room(rows as u64 * 4);
                let shape = Norm {
                    element,
                    rows,
                    width,
                };
                let weight = on.put(element, &w);
                let with = Forward {
                    x: on.put(element, &x),
                    residual: Some((on.put(element, &r), y)),
                    weight,
                    normed,
                    scales: Some(scales),
                };
                shape.forward(on, &with, EPS).unwrap();
                let (dx, dw) = (
                    on.room_for(element, rows * width),
                    on.f32(&vec![0.5; width]),
                );
                let with = Backward {
                    y,
                    weight,
                    scales,
                    gradient: on.put(element, &g),
                    beside: Some(on.put(element, &beside)),
                    dx,
                    dw: Some((dw, true)),
                };
                shape.backward(on, &with).unwrap();
                vec![
                    on.get(element, y),
                    on.get(element, normed),
                    on.get(element, dx),
                    on.get(Element::F32, dw),
                ]
            });
            let sum: Vec<f32> = x.iter().zip(&r).map(|(x, r)| x + r).collect();
            let y = wide(&rounded(element, &sum));
            assert_eq!(wide(&found[0]), y);
            let (w, g) = (wide(&w), wide(&g));
            close("normed", &found[1], &plain(&y, &w), tolerance(element));
            let total = |y: &[f64], w: &[f64]| -> f64 {
                plain(y, w).iter().zip(&g).map(|(n, g)| n * g).sum()
            };
            let dx: Vec<f64> = differences(&y, |y| total(y, &w))
                .iter()
                .zip(&beside)
                .map(|(d, b)| d + f64::from(*b))
                .collect();
            close("dx", &found[2], &dx, tolerance(element).max(1e-5));
            let dw: Vec<f64> = differences(&w, |w| total(&y, w))
                .iter()
                .map(|d| d + 0.5)
                .collect();
            close("dw", &found[3], &dw, 1e-5);
        }
    }
}

#[test]
fn without_a_residual_the_sum_is_the_input_and_nan_stays_in_its_row() {
    let on = Emulator::new(0);
    let mut x = random(4 * 33, 1, 1.0);
    x[40] = f32::NAN;
    x[70] = f32::INFINITY;
    let (normed, w) = (on.room(4 * 33 * 4), vec![1.0; 33]);
    let shape = Norm {
        element: Element::F32,
        rows: 4,
        width: 33,
    };
    let with = Forward {
        x: on.f32(&x),
        residual: None,
        weight: on.f32(&w),
        normed,
        scales: None,
    };
    shape.forward(&on, &with, EPS).unwrap();
    let found = on.get(Element::F32, normed);
    close(
        "row 0",
        &found[..33],
        &plain(&wide(&x[..33]), &wide(&w)),
        2e-6,
    );
    assert!(found[33..66].iter().all(|x| x.is_nan()));
    assert!(found[66..99].iter().any(|x| x.is_nan()));
    close(
        "row 3",
        &found[99..],
        &plain(&wide(&x[99..]), &wide(&w)),
        2e-6,
    );
}

#[test]
fn what_does_not_fit_is_refused() {
    let on = Emulator::new(0);
    let small = on.room(4);
    let with = Forward {
        x: small,
        residual: None,
        weight: small,
        normed: small,
        scales: None,
    };
    let error = Norm {
        element: Element::F32,
        rows: 2,
        width: 8,
    }
    .forward(&on, &with, EPS)
    .unwrap_err();
    assert!(error.contains("x has 4 bytes, not 64"), "{error}");
    assert_eq!(on.launches(), 0);
}

//! Every path that this processor has, against products in f64.

use super::*;

fn values(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| (((i * 7919 + seed * 104_729) % 2003) as f32 - 1001.0) / 700.0)
        .collect()
}

fn rounded(value: f32, precision: Precision) -> f64 {
    let value = match precision {
        Precision::F32 | Precision::F16 => value,
        Precision::Bf16 => {
            let bits = value.to_bits();
            f32::from_bits((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF_0000)
        }
    };
    f64::from(value)
}

/// ‖difference‖ / ‖expected‖ of a product over matrices with the given transpositions.
fn error(
    cpu: Cpu,
    precision: Precision,
    (m, n, k): (usize, usize, usize),
    turned: (bool, bool),
    add: bool,
) -> f64 {
    let (a, b) = (values(m * k, 1), values(k * n, 2));
    let matrix = |values, turned: bool, rows, columns| {
        if turned {
            Matrix::columns(values, rows)
        } else {
            Matrix::rows(values, columns)
        }
    };
    let product = Product {
        m,
        n,
        k,
        a: matrix(&a, turned.0, m, k),
        b: matrix(&b, turned.1, k, n),
        scale: 0.75,
        precision,
    };
    let row = n + 3;
    let before = values(m * row, 3);
    let mut c = before.clone();
    product.write_on(cpu, &mut c, row, add, true);
    let (mut wrong, mut norm) = (0.0, 0.0);
    for i in 0..m {
        for j in 0..n {
            let at = |matrix: &Matrix<'_>, i: usize, j: usize| {
                rounded(matrix.values[i * matrix.row + j * matrix.column], precision)
            };
            let mut sum: f64 = (0..k)
                .map(|p| at(&product.a, i, p) * at(&product.b, p, j))
                .sum();
            sum *= 0.75;
            if add {
                sum += f64::from(before[i * row + j]);
            }
            wrong += (f64::from(c[i * row + j]) - sum).powi(2);
            norm += sum * sum;
        }
        // What is between the rows stays as it was.
        if i + 1 < m {
            assert_eq!(
                c[i * row + n..(i + 1) * row],
                before[i * row + n..(i + 1) * row]
            );
        }
    }
    (wrong / norm.max(1e-30)).sqrt()
}

#[test]
fn every_path_gives_the_product_for_every_layout_and_size() {
    let sizes = [
        (1, 1, 1),
        (3, 5, 2),
        (17, 13, 31),
        (12, 32, 256),
        (13, 33, 257),
        (1, 513, 64),
        (150, 17, 513),
        (40, 4100, 7),
    ];
    for cpu in Cpu::ALL.into_iter().filter(|cpu| cpu.available()) {
        for precision in [Precision::F32, Precision::Bf16] {
            for size in sizes {
                for turned in [(false, false), (false, true), (true, false), (true, true)] {
                    for add in [false, true] {
                        let error = error(cpu, precision, size, turned, add);
                        assert!(
                            error < 2e-6,
                            "{cpu:?} {precision:?} {size:?} {turned:?} {add}: {error}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn threads_change_no_bit_and_an_empty_inner_dimension_gives_zeros() {
    let (m, n, k) = (130, 300, 520);
    let (a, b) = (values(m * k, 4), values(k * n, 5));
    for precision in [Precision::F32, Precision::Bf16] {
        let product = |k| Product {
            m,
            n,
            k,
            a: Matrix::rows(&a, k.max(1)),
            b: Matrix::rows(&b, n),
            scale: 1.0,
            precision,
        };
        let mut alone = vec![0.0; m * n];
        product(k).write_to(&mut alone, n, false, false);
        assert_eq!(alone, product(k).new_matrix());
        assert_eq!(product(0).new_matrix(), vec![0.0; m * n]);
        product(0).write_to(&mut alone, n, false, true);
        assert_eq!(alone, vec![0.0; m * n]);
    }
}

#[test]
fn a_nan_reaches_the_result() {
    for cpu in Cpu::ALL.into_iter().filter(|cpu| cpu.available()) {
        for precision in [Precision::F32, Precision::Bf16] {
            let mut a = values(20 * 40, 6);
            a[40 * 3 + 7] = f32::NAN;
            let b = values(40 * 50, 7);
            let product = Product {
                m: 20,
                n: 50,
                k: 40,
                a: Matrix::rows(&a, 40),
                b: Matrix::rows(&b, 50),
                scale: 1.0,
                precision,
            };
            let mut c = vec![0.0; 20 * 50];
            product.write_on(cpu, &mut c, 50, false, false);
            for (place, value) in c.iter().enumerate() {
                assert_eq!(
                    value.is_nan(),
                    place / 50 == 3,
                    "{cpu:?} {precision:?} {place}"
                );
            }
        }
    }
}

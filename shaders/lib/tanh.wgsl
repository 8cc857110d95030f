// tanh by its series near zero and by exp elsewhere: built-ins are off by a dozen units in the last place on some
// drivers, and NaN for large arguments on others.
fn tanh_${NAME}(x: ${TYPE}) -> ${TYPE} {
    let square = x * x;
    var series = fma(square, ${TYPE}(-0.008863236), ${TYPE}(0.021869488));
    series = fma(square, series, ${TYPE}(-0.053968254));
    series = fma(square, series, ${TYPE}(0.13333333));
    series = fma(square, series, ${TYPE}(-0.33333334));
    let near = fma(x * square, series, x);
    // Beyond 9 it is ±1 in binary32.
    let grown = exp(2.0 * min(abs(x), ${TYPE}(9.0)));
    let far = sign(x) * (1.0 - 2.0 / (grown + 1.0));
    return select(far, near, abs(x) < ${TYPE}(0.35));
}

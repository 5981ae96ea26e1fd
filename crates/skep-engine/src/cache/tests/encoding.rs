//! Whatever is encoded comes back as it was.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, BinaryViewArray, BooleanArray, Date32Array, Decimal128Array, Float32Array,
    Float64Array, Int16Array, Int32Array, Int64Array, StringArray, StringViewArray,
    TimestampNanosecondArray, UInt16Array, UInt32Array, UInt64Array,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::super::encode::{decode, encode};

fn check(array: ArrayRef) {
    let encoded = encode(&array).unwrap();
    let decoded = decode(&encoded, array.data_type()).unwrap();
    assert_eq!(decoded.data_type(), array.data_type());
    assert_eq!(&decoded, &array, "encoded as {}", encoded.data_type());
    // A piece of an array is an array.
    if array.len() > 3 {
        let piece = array.slice(1, array.len() - 2);
        let decoded = decode(&encode(&piece).unwrap(), piece.data_type()).unwrap();
        assert_eq!(&decoded, &piece);
    }
}

/// Values of all magnitudes: narrow ones must be as likely as wide ones.
fn integers() -> impl Strategy<Value = Vec<Option<i64>>> {
    (0..64_u32).prop_flat_map(|shift| {
        vec(option::of(any::<i64>()), 0..600).prop_map(move |all| {
            all.into_iter().map(|value| value.map(|value| value >> shift)).collect()
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn integers_come_back(values in integers()) {
        let all = || values.iter().copied();
        check(Arc::new(all().collect::<Int64Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as i32)).collect::<Int32Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as i16)).collect::<Int16Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as u64)).collect::<UInt64Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as u32)).collect::<UInt32Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as u16)).collect::<UInt16Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as i32)).collect::<Date32Array>()));
        check(Arc::new(all().collect::<TimestampNanosecondArray>().with_timezone("+02:00")));
        let decimals = all().map(|v| v.map(|v| i128::from(v) * 7)).collect::<Decimal128Array>();
        check(Arc::new(decimals.with_precision_and_scale(38, 3).unwrap()));
        let wide = all().map(|v| v.map(|v| i128::from(v) << 60)).collect::<Decimal128Array>();
        check(Arc::new(wide.with_precision_and_scale(38, 0).unwrap()));
        check(Arc::new(all().map(|v| v.map(|v| f64::from_bits(v as u64))).collect::<Float64Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v as f32)).collect::<Float32Array>()));
        check(Arc::new(all().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()));
    }

    #[test]
    fn texts_come_back(values in vec(option::of(".{0,40}"), 0..400), repeats in 1_usize..4) {
        let all = || (0..repeats).flat_map(|_| values.iter().map(Option::as_deref));
        check(Arc::new(all().collect::<StringViewArray>()));
        check(Arc::new(all().collect::<StringArray>()));
        let bytes = all().map(|text| text.map(str::as_bytes)).collect::<BinaryViewArray>();
        check(Arc::new(bytes));
    }

    #[test]
    fn few_values_come_back(values in vec(option::of(0_usize..300), 0..3000)) {
        let name = |value: usize| format!("a value with a name that is long, number {value}");
        let texts = values.iter().map(|value| value.map(name)).collect::<StringViewArray>();
        check(Arc::new(texts));
        let floats = values.iter().map(|v| v.map(|v| v as f64 / 3.0)).collect::<Float64Array>();
        check(Arc::new(floats));
        let far = values.iter().map(|v| v.map(|v| v as i64 * 1_000_000_007_000)).collect::<Int64Array>();
        check(Arc::new(far));
    }
}

#[test]
fn what_repeats_takes_a_byte_a_row() {
    let bytes = |array: ArrayRef| encode(&array).unwrap().get_array_memory_size();
    let rows = 8192;
    let texts = (0..rows).map(|row| Some(format!("a rather long text, {}", row % 40)));
    assert!(bytes(Arc::new(texts.collect::<StringViewArray>())) < 2 * rows);
    let floats = (0..rows).map(|row| Some((row % 100) as f64 / 7.0));
    assert!(bytes(Arc::new(floats.collect::<Float64Array>())) < 2 * rows);
    let small = (0..rows as i64).map(|row| Some(row % 100));
    assert!(bytes(Arc::new(small.collect::<Int64Array>())) < 2 * rows);
}

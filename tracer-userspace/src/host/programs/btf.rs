//! Just enough of BTF to find a function's name. See the kernel's Documentation/bpf/btf.rst.

const MAGIC: u16 = 0xeb9f;
const KIND_FUNC: u32 = 12;

/// The name of the function with this type id; `None` if it is no function or the bytes are no BTF that this
/// reader knows.
pub(super) fn function_name(btf: &[u8], type_id: u32) -> Option<String> {
    // magic, version, flags, header length, then offset and length of types and strings behind the header
    if read_u16(btf, 0)? != MAGIC || *btf.get(2)? != 1 {
        return None;
    }
    let header = read_size(btf, 4)?;
    let section = |at: usize| {
        let start = header.checked_add(read_size(btf, at)?)?;
        btf.get(start..start.checked_add(read_size(btf, at + 4)?)?)
    };
    let (types, strings) = (section(8)?, section(16)?);
    let mut position = 0;
    // Type 0 is void and not written down.
    for _ in 1..type_id {
        position += type_length(types, position)?;
    }
    if kind(types, position)? != KIND_FUNC {
        return None;
    }
    let name = strings.get(read_size(types, position)?..)?;
    let end = name.iter().position(|byte| *byte == 0)?;
    (end > 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
}

fn kind(types: &[u8], position: usize) -> Option<u32> {
    Some((read_u32(types, position + 4)? >> 24) & 0x1f)
}

/// Bytes of one type: name, info, size or type, and what its kind adds.
fn type_length(types: &[u8], position: usize) -> Option<usize> {
    let members = (read_u32(types, position + 4)? & 0xffff) as usize;
    let extra = match kind(types, position)? {
        // pointer, forward, typedef, volatile, const, restrict, func, float, type tag
        2 | 7 | 8 | 9 | 10 | 11 | 12 | 16 | 18 => 0,
        // int, variable, declaration tag
        1 | 14 | 17 => 4,
        // array
        3 => 12,
        // struct, union, data section, enum64
        4 | 5 | 15 | 19 => 12 * members,
        // enum, function prototype
        6 | 13 => 8 * members,
        // A kind of unknown length hides all that follows.
        _ => return None,
    };
    Some(12 + extra)
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn read_size(bytes: &[u8], at: usize) -> Option<usize> {
    usize::try_from(read_u32(bytes, at)?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, proptest};

    use super::function_name;

    /// int; struct of two; function prototype with two parameters; function.
    fn sample() -> Vec<u8> {
        let strings = b"\0int\0pair\0cil_from_container\0";
        let name = |name: &str| {
            strings.windows(name.len()).position(|window| window == name.as_bytes()).unwrap() as u32
        };
        let info = |kind: u32, members: u32| kind << 24 | members;
        let types: Vec<u32> = [
            vec![name("int"), info(1, 0), 4, 0x0100_0020],
            vec![name("pair"), info(4, 2), 8, 0, 1, 0, 0, 1, 32],
            vec![0, info(13, 2), 1, 0, 1, 0, 1],
            vec![name("cil_from_container"), info(12, 0), 3],
        ]
        .concat();
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let mut btf = vec![];
        btf.extend_from_slice(&0xeb9f_u16.to_ne_bytes());
        btf.extend_from_slice(&[1, 0]);
        for field in [24, 0, types.len() as u32, types.len() as u32, strings.len() as u32] {
            btf.extend_from_slice(&field.to_ne_bytes());
        }
        btf.extend_from_slice(&types);
        btf.extend_from_slice(strings);
        btf
    }

    #[test]
    fn a_functions_full_name_is_found_behind_types_of_other_kinds() {
        assert_eq!(function_name(&sample(), 4).as_deref(), Some("cil_from_container"));
    }

    #[test]
    fn what_is_no_function_has_no_name() {
        for type_id in [0, 1, 2, 3, 5, u32::MAX] {
            assert_eq!(function_name(&sample(), type_id), None, "type {type_id}");
        }
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(place in any::<usize>(), byte in any::<u8>(), cut in any::<usize>(), id in 0..9_u32) {
            let mut bytes = sample();
            let length = bytes.len();
            bytes[place % length] = byte;
            bytes.truncate(cut % (length + 1));
            function_name(&bytes, id);
        }
    }
}

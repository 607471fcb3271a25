//! The expressions rules are made of: each looks at the packet or at registers and goes on or not.

use super::attributes::Attributes;

/// The first of the 16 registers of four bytes; a longer value takes those behind it, too.
pub(crate) const REGISTER: u32 = 8;

/// What `meta` knows of a packet.
pub(crate) const META_OUTPUT_INTERFACE: u32 = 5;
pub(crate) const META_INPUT_INTERFACE: u32 = 4;
pub(crate) const META_FAMILY: u32 = 15;
pub(crate) const META_PROTOCOL: u32 = 16;

/// What conntrack knows of its connection.
pub(crate) const CT_STATE: u32 = 0;
pub(crate) const CT_DIRECTION: u32 = 1;
pub(crate) const CT_STATUS: u32 = 2;
pub(crate) const CT_SOURCE_PORT: u32 = 11;
pub(crate) const CT_DESTINATION_PORT: u32 = 12;
pub(crate) const CT_SOURCE_IPV4: u32 = 19;
pub(crate) const CT_SOURCE_IPV6: u32 = 21;

/// Which of its two tuples.
pub(crate) const ORIGINAL: u8 = 0;
pub(crate) const REPLY: u8 = 1;

/// Where in the packet.
pub(crate) const NETWORK_HEADER: u32 = 1;
pub(crate) const TRANSPORT_HEADER: u32 = 2;

/// How to compare.
pub(crate) const EQUAL: u32 = 0;
pub(crate) const DIFFERENT: u32 = 1;

/// Verdicts.
pub(crate) const ACCEPT: i32 = 1;
pub(crate) const JUMP: i32 = -3;

/// Register of a verdict.
const VERDICT_REGISTER: u32 = 0;

const LIST_ELEMENT: u16 = 1;
const NAME: u16 = 1;
const DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;

/// One expression after the other.
#[derive(Debug)]
pub(crate) struct Expressions<'a, 'b>(pub(crate) &'a mut Attributes<'b>);

impl Expressions<'_, '_> {
    fn add(&mut self, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.0.nested(LIST_ELEMENT, |it| expression(it, name, fill));
        self
    }

    pub(crate) fn meta(&mut self, key: u32) -> &mut Self {
        self.add("meta", |it| {
            it.number(1, REGISTER);
            it.number(2, key);
        })
    }

    pub(crate) fn conntrack(&mut self, key: u32) -> &mut Self {
        self.add("ct", |it| {
            it.number(1, REGISTER);
            it.number(2, key);
        })
    }

    /// A part of one of the connection's tuples.
    pub(crate) fn tuple(&mut self, key: u32, direction: u8, register: u32) -> &mut Self {
        self.add("ct", |it| {
            it.number(1, register);
            it.number(2, key);
            it.bytes(3, &[direction]);
        })
    }

    pub(crate) fn payload(&mut self, base: u32, offset: u32, length: u32) -> &mut Self {
        self.add("payload", |it| {
            it.number(1, REGISTER);
            it.number(2, base);
            it.number(3, offset);
            it.number(4, length);
        })
    }

    pub(crate) fn compare(&mut self, how: u32, value: &[u8]) -> &mut Self {
        self.add("cmp", |it| {
            it.number(1, REGISTER);
            it.number(2, how);
            it.nested(3, |it| it.bytes(DATA_VALUE, value));
        })
    }

    /// Goes on if any of these bits is set, or if none is.
    pub(crate) fn bits(&mut self, mask: &[u8], how: u32) -> &mut Self {
        let zero = vec![0; mask.len()];
        self.add("bitwise", |it| {
            it.number(1, REGISTER);
            it.number(2, REGISTER);
            it.number(3, u32::try_from(mask.len()).unwrap_or_default());
            it.nested(4, |it| it.bytes(DATA_VALUE, mask));
            it.nested(5, |it| it.bytes(DATA_VALUE, &zero));
        })
        .compare(how, &zero)
    }

    /// Goes on if what is in the registers is in a set.
    pub(crate) fn is_in(&mut self, set: &str) -> &mut Self {
        self.add("lookup", |it| {
            it.text(1, set);
            it.number(2, REGISTER);
        })
    }

    /// The verdict that a map has for what is in the register.
    pub(crate) fn verdict_of(&mut self, map: &str) -> &mut Self {
        self.add("lookup", |it| {
            it.text(1, map);
            it.number(2, REGISTER);
            it.number(3, VERDICT_REGISTER);
        })
    }

    /// What a map has for what is in the registers.
    pub(crate) fn value_of(&mut self, map: &str) -> &mut Self {
        self.add("lookup", |it| {
            it.text(1, map);
            it.number(2, REGISTER);
            it.number(3, REGISTER);
        })
    }

    /// Counts up to `modulus` and begins again at 0.
    pub(crate) fn count_up(&mut self, modulus: u32, register: u32) -> &mut Self {
        self.add("numgen", |it| {
            it.number(1, register);
            it.number(2, modulus);
            it.number(3, 0);
        })
    }

    /// Sends the connection to the address in the registers and the port in this one.
    pub(crate) fn destination(&mut self, family: u8, port_register: u32) -> &mut Self {
        self.add("nat", |it| {
            it.number(1, 1);
            it.number(2, family.into());
            it.number(3, REGISTER);
            it.number(5, port_register);
        })
    }

    /// Gives it the address of the interface it leaves by as its source.
    pub(crate) fn masquerade(&mut self) -> &mut Self {
        self.add("masq", |_| {})
    }

    pub(crate) fn verdict(&mut self, code: i32, chain: Option<&str>) -> &mut Self {
        self.add("immediate", |it| {
            it.number(1, VERDICT_REGISTER);
            it.nested(2, |it| verdict(it, code, chain));
        })
    }

    /// Answers with a reset.
    pub(crate) fn reset(&mut self) -> &mut Self {
        self.add("reject", |it| {
            it.number(1, 1);
            it.bytes(2, &[0]);
        })
    }
}

/// An expression by itself, as sets have one for their elements.
pub(crate) fn expression(
    attributes: &mut Attributes<'_>,
    name: &str,
    fill: impl FnOnce(&mut Attributes<'_>),
) {
    attributes.text(NAME, name);
    attributes.nested(DATA, fill);
}

/// A verdict as data.
pub(crate) fn verdict(attributes: &mut Attributes<'_>, code: i32, chain: Option<&str>) {
    attributes.nested(DATA_VERDICT, |it| {
        it.bytes(1, &code.to_be_bytes());
        if let Some(chain) = chain {
            it.text(2, chain);
        }
    });
}

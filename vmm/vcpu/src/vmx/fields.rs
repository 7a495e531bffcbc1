//! VMCS fields as this backend's pure code sees them: read and written by name, wherever they are. On the machine that
//! is the current VMCS ([`super::insn::Current`]), in tests a map.

use x86_spec::vmx::Field;

/// Fields to read.
pub(super) trait Fields {
    /// The field with this encoding, zero-extended.
    fn raw(&self, encoding: u32) -> u64;

    /// A field.
    #[inline]
    fn read<F: Field>(&self, field: F) -> F::Value {
        F::from_raw(self.raw(field.encoding()))
    }
}

/// Fields to write.
pub(super) trait FieldsMut: Fields {
    /// Sets the field with this encoding.
    fn set_raw(&mut self, encoding: u32, value: u64);

    /// Sets a field.
    #[inline]
    fn write<F: Field>(&mut self, field: F, value: F::Value) {
        self.set_raw(field.encoding(), F::to_raw(value));
    }
}

/// Fields in a map; those never written read as zero.
#[cfg(test)]
#[derive(Clone, Debug, Default)]
pub(super) struct TestFields(pub(super) std::collections::BTreeMap<u32, u64>);

#[cfg(test)]
impl Fields for TestFields {
    fn raw(&self, encoding: u32) -> u64 {
        self.0.get(&encoding).copied().unwrap_or(0)
    }
}

#[cfg(test)]
impl FieldsMut for TestFields {
    fn set_raw(&mut self, encoding: u32, value: u64) {
        self.0.insert(encoding, value);
    }
}

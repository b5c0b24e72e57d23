package bpf

// TenantGeneration is the generation of whoever has the slot: what a flow's
// word must have to be the tenant's.
func (r *Real) TenantGeneration() uint8 { return r.Generation & 15 }

// Method is how packets get to the real.
func (r *Real) Method() ForwardMethod { return ForwardMethod(r.Generation>>4) &^ ForwardTagged }

package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Maps are the maps of the packet path. The `ebpf` tag of a field is the
// name that the map has in C, and below the pin directory.
type Maps = lbMaps

// SetWords6 is the number of words of a set of IPv6: keys, values, and for each
// an address.
const SetWords6 = 4 * Ways

// Maps6 are the maps that only IPv6 has and that outlive its program, with tags
// as [Maps] has them.
type Maps6 struct {
	Flows6        *ebpf.Map `ebpf:"flows6"`
	FlowPieces6   *ebpf.Map `ebpf:"flow_pieces6"`
	Templates6    *ebpf.Map `ebpf:"templates6"`
	Fragments6    *ebpf.Map `ebpf:"fragments6"`
	FlowNews6     *ebpf.Map `ebpf:"flow_news6"`
	TemplateNews6 *ebpf.Map `ebpf:"template_news6"`
}

// Close lets go of the maps.
func (m *Maps6) Close() error {
	return _LbClose(m.Flows6, m.FlowPieces6, m.Templates6, m.Fragments6, m.FlowNews6, m.TemplateNews6)
}

// LoadSpec reads the compiled packet path.
func LoadSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadLb()
	if err != nil {
		return nil, fmt.Errorf("packet path object: %w", err)
	}
	return spec, makeDirect(spec)
}

// LoadExplainSpec reads the packet path that records how it decides and
// stores nothing.
func LoadExplainSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadExplain()
	if err != nil {
		return nil, fmt.Errorf("explaining object: %w", err)
	}
	return spec, makeDirect(spec)
}

// LoadTraceSpec reads the packet path that records how it decides while it
// serves.
func LoadTraceSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadTrace()
	if err != nil {
		return nil, fmt.Errorf("tracing object: %w", err)
	}
	return spec, makeDirect(spec)
}

// LoadSpec6 reads the compiled packet path of IPv6.
func LoadSpec6() (*ebpf.CollectionSpec, error) {
	spec, err := loadLb6()
	if err != nil {
		return nil, fmt.Errorf("packet path object of IPv6: %w", err)
	}
	return spec, makeDirect(spec)
}

// LoadExplainSpec6 reads what [LoadExplainSpec] reads, of IPv6.
func LoadExplainSpec6() (*ebpf.CollectionSpec, error) {
	spec, err := loadExplain6()
	if err != nil {
		return nil, fmt.Errorf("explaining object of IPv6: %w", err)
	}
	return spec, makeDirect(spec)
}

// LoadTraceSpec6 reads what [LoadTraceSpec] reads, of IPv6.
func LoadTraceSpec6() (*ebpf.CollectionSpec, error) {
	spec, err := loadTrace6()
	if err != nil {
		return nil, fmt.Errorf("tracing object of IPv6: %w", err)
	}
	return spec, makeDirect(spec)
}

// String is the verdict's name in listings and metrics.
func (v Verdict) String() string {
	if v >= Verdicts {
		return fmt.Sprintf("verdict_%d", uint32(v))
	}
	return verdictTexts[v].name
}

// Meaning is a sentence for people who ask where a packet went.
func (v Verdict) Meaning() string {
	if v >= Verdicts {
		return "a verdict that this version does not know"
	}
	return verdictTexts[v].meaning
}

// IsActive reports whether connections of a state count as ActiveConn
// (is_active of stats.h).
func (s FlowState) IsActive() bool {
	return s == StateSynRecv || s == StateEstablished || s == StateSynSent || s == StateSynAck
}

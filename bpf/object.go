package bpf

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// Maps are the maps of the packet path. The `ebpf` tag of a field is the
// name that the map has in C, and below the pin directory.
type Maps = lbMaps

// LoadSpec reads the compiled packet path.
func LoadSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadLb()
	if err != nil {
		return nil, fmt.Errorf("packet path object: %w", err)
	}
	return spec, nil
}

// LoadExplainSpec reads the packet path that records how it decides and
// stores nothing.
func LoadExplainSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadExplain()
	if err != nil {
		return nil, fmt.Errorf("explaining object: %w", err)
	}
	return spec, nil
}

// LoadTraceSpec reads the packet path that records how it decides while it
// serves.
func LoadTraceSpec() (*ebpf.CollectionSpec, error) {
	spec, err := loadTrace()
	if err != nil {
		return nil, fmt.Errorf("tracing object: %w", err)
	}
	return spec, nil
}

// LoadSpec6 reads the compiled packet path of IPv6.
func LoadSpec6() (*ebpf.CollectionSpec, error) {
	spec, err := loadLb6()
	if err != nil {
		return nil, fmt.Errorf("packet path object of IPv6: %w", err)
	}
	return spec, nil
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
func (s FlowState) IsActive() bool { return s == StateSynRecv || s == StateEstablished }

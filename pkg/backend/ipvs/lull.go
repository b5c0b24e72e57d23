package ipvs

import "fmt"

// A lull is a time in which the kernel forgives that a real is missing: with
// expire_nodest_conn off it drops the packets of such a real's connections
// without ending them, and they live on when the real is back
// (ipvs-facts/07, case 2).
type lull struct {
	knobs knobs
	value string // to put back; "" if no lull
}

// begin starts the lull, if it is not on.
func (l *lull) begin() error {
	if l.value != "" {
		return nil
	}
	value, err := l.knobs.Get(expireNodest)
	if err != nil {
		return fmt.Errorf("sysctl net/%s: %w", expireNodest, err)
	}
	if value == "0" {
		return nil
	}
	if err := l.knobs.Set(expireNodest, "0"); err != nil {
		return fmt.Errorf("sysctl net/%s: %w", expireNodest, err)
	}
	l.value = value
	return nil
}

// end ends it.
func (l *lull) end() error {
	if l.value == "" {
		return nil
	}
	if err := l.knobs.Set(expireNodest, l.value); err != nil {
		return fmt.Errorf("sysctl net/%s: %w", expireNodest, err)
	}
	l.value = ""
	return nil
}

package hostinfo

import "testing"

func TestWeakOrderIsRefused(t *testing.T) {
	for arch, want := range map[string]string{
		"amd64": "",
		"arm64": "the packet path needs the memory order of amd64, and this is arm64 (set backend: ipvs, or run lvx on amd64)",
	} {
		got := ""
		if err := weakOrder(arch); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%s: %q, want %q", arch, got, want)
		}
	}
}

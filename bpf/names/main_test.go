package main

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHeader(t *testing.T) {
	h := parseHeader(`/* Not this one. */
struct shape;

/* One
 * thing. */
struct thing {
	int a; /* no constant */
};

enum verdict {
	VERDICT_NOT_OUR_MAC, /* passed: the frame is for another host */
	VERDICT_DENIED = 7, /* dropped */
	VERDICTS
};
`)
	want := header{
		types:    []string{"thing", "verdict"},
		verdicts: []string{"VERDICT_NOT_OUR_MAC", "VERDICT_DENIED"},
		docs:     map[string][]string{"thing": {"One", "thing."}, "verdict": nil},
		sentences: map[string]string{
			"NotOurMAC": "passed: the frame is for another host", "Denied": "dropped",
		},
	}
	if diff := cmp.Diff(want, h, cmp.AllowUnexported(header{})); diff != "" {
		t.Errorf("header (-want +got):\n%s", diff)
	}
}

func TestNames(t *testing.T) {
	for c, want := range map[string]string{
		"VERDICT_NOT_IPV4": "NotIPv4", "VERDICT_NO_REAL": "NoReal", "NO_SLOT": "NoSlot",
		"STATE_SYN_RECV": "StateSynRecv", "VIP_LINES": "VIPLines", "SCHED_RR": "SchedRR",
	} {
		if got := constantName(c); got != want {
			t.Errorf("%s is %s in Go, want %s", c, got, want)
		}
	}
}

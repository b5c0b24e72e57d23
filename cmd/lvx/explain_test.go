package main

import (
	"strings"
	"testing"
)

// A type is a byte, also one below 0 is none.
func TestExplainType(t *testing.T) {
	for args, want := range map[string]string{
		"icmp 192.0.2.1 192.0.2.2 --type -1":  `invalid argument "-1" for "--type"`,
		"icmp 192.0.2.1 192.0.2.2 --type -5":  `invalid argument "-5" for "--type"`,
		"icmp 192.0.2.1 192.0.2.2 --type 256": `invalid argument "256" for "--type"`,
	} {
		cmd := newExplainCmd()
		cmd.SilenceErrors, cmd.SilenceUsage = true, true
		cmd.SetArgs(strings.Fields(args))
		if err := cmd.Execute(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("explain %s: %v, want %q", args, err, want)
		}
	}
	args := strings.Fields("icmp 192.0.2.1 192.0.2.2")
	for want, q := range map[uint8]question{8: {}, 0: {hasType: true}, 3: {hasType: true, icmpType: 3}} {
		if p, err := parsePacket(args, q); err != nil || p.ICMPType != want {
			t.Errorf("%+v: type %d, %v, want %d", q, p.ICMPType, err, want)
		}
	}
	if p, err := parsePacket(strings.Fields("icmp6 2001:db8::1 2001:db8::2"), question{}); err != nil || p.ICMPType != 128 {
		t.Errorf("icmp6: type %d, %v", p.ICMPType, err)
	}
}

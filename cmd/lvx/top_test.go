package main

import (
	"bytes"
	"context"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/lvx-lb/lvx/pkg/lb"
)

const topScreen = `lvx 1.2.3, xdp native, up 3 days, by bytes, VI_1 MASTER, flows 95%, templates 0%

SERVICE         STATE    WEIGHT  CONN/S  PKT/S  BIT/S  ACTIVE  INACTIVE
web             up               3       30     800    2       5
  10.0.0.12:81  down     2       1       20     560    0       0
  10.0.0.11     up       1       2       10     240    0       0
  10.0.0.13     drained  0       0       0      0      2       5
dns             up               0       0      0      0       0
mail            down             0       0      0      0       0
quic            up               0       0      0      0       0
`

func TestPrintTop(t *testing.T) {
	rates := []lb.ServiceRates{{Name: "web", Rates: lb.Rates{CPS: 3, InPPS: 30, InBPS: 100}, Reals: []lb.RealRates{
		{Addr: netip.MustParseAddr("10.0.0.11"), Rates: lb.Rates{CPS: 2, InPPS: 10, InBPS: 30}},
		{Addr: netip.MustParseAddr("10.0.0.12"), Port: 81, Rates: lb.Rates{CPS: 1, InPPS: 20, InBPS: 70}},
	}}}
	var b bytes.Buffer
	if err := printTop(&b, testStatus(), rates, "bytes", false); err != nil || b.String() != topScreen {
		t.Errorf("%v\n%s", err, b.String())
	}
	for order, first := range map[string]string{"connections": "10.0.0.11", "packets": "10.0.0.12:81", "active": "10.0.0.13", "name": "10.0.0.11"} {
		rows := topRows(testStatus(), rates, order)
		web := rows[slices.IndexFunc(rows, func(r topRow) bool { return r.name == "web" })]
		if web.reals[0].name != first {
			t.Errorf("by %s the first real is %s, want %s", order, web.reals[0].name, first)
		}
	}
}

func TestTopOnce(t *testing.T) {
	serve(t, &recorder{})
	code, out, stderr := lvx("top", "--once")
	if code != exitDone || stderr != "" || !strings.Contains(out, "SERVICE") || strings.Contains(out, "\x1b") {
		t.Errorf("%d %q\n%s", code, stderr, out)
	}
	if code, _, _ := lvx("top", "--sort", "luck"); code != exitUsage {
		t.Errorf("an unknown order: %d", code)
	}
}

// Keys sort the screen, q ends it.
func TestTopKeys(t *testing.T) {
	keys := make(chan byte, 3)
	keys <- 'b'
	keys <- 'x'
	keys <- 'q'
	var orders []string
	err := runTop(t.Context(), io.Discard, keys, "name", func(_ context.Context, _ io.Writer, order string, _ bool) error {
		orders = append(orders, order)
		return nil
	})
	if got := strings.Join(orders, " "); err != nil || got != "name bytes bytes" {
		t.Errorf("drawn by %q, %v", got, err)
	}
}

package failover

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// Directors that change roles again and again are no strangers to each other:
// neither warns that another host uses the VIP, while it happens and after.
func TestFault16WarningsOfAFlap(t *testing.T) {
	t.Parallel()
	p := newPair(t, LVX{Self: self, Body: "services: []\n"}, v3tenth)
	const foreign = "uses our address"
	quiet := func(when string) {
		t.Helper()
		for _, host := range []string{"a", "b"} {
			o, err := p.observe(host)
			must(t, err)
			if o.Warning != "" || strings.Contains(o.text, foreign) || strings.Contains(o.metrics, foreign) {
				t.Errorf("%s %s warns: %q\n%s", when, host, o.Warning, o.text)
			}
		}
	}
	p.awaitSaid("a", "it is master", func(o observed) bool { return o.is("MASTER", "") })
	for i := range 4 {
		must(t, p.Unplug("a", true))
		p.await("b is master", func() error { return p.hasVIP("b") })
		quiet(fmt.Sprintf("flap %d: b master,", i))
		must(t, p.Unplug("a", false))
		p.await("a is master", func() error { return p.Alone("a", "b", VIP) })
		quiet(fmt.Sprintf("flap %d: a master,", i))
	}
	// What is said about the VIP is said again for some seconds after a change of role.
	for end := time.Now().Add(7 * time.Second); time.Now().Before(end); {
		p.settle()
		quiet("after the flaps")
	}
}

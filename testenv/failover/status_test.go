package failover

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/testenv"
)

// hook is a notification program that keeps a diary.
func hook(t *testing.T) (program, diary string) {
	t.Helper()
	dir, err := os.MkdirTemp("/var/tmp", "lvx-hook-") // a path that root alone can write to, as hooks must be
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	program, diary = filepath.Join(dir, "hook"), filepath.Join(dir, "diary")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\necho \"$LVX_KIND $LVX_NAME $LVX_OLD $LVX_NEW $LVX_REASON\" >> "+diary+"\n"), 0o700))
	return program, diary
}

// observed is what a director says in each way that it has to say it.
type observed struct {
	director.VRRPStatus
	text    string // lvx status
	metrics string
	now     time.Time
}

func (p *pair) observe(host string) (o observed, err error) {
	lvx, h, ctx := p.program.(LVX), p.Host(host), p.t.Context()
	out, err := lvx.Run(ctx, h, "status", "--json")
	if err != nil {
		return o, err
	}
	var st director.Status
	if err := json.Unmarshal([]byte(out), &st); err != nil {
		return o, err
	}
	if len(st.VRRP) != 1 || len(st.VIPs) == 0 || st.VIPs[0].Held != (st.VRRP[0].Role == "MASTER") {
		return o, fmt.Errorf("status of %s: %s", host, out)
	}
	o.VRRPStatus, o.now = st.VRRP[0], st.Now
	if o.text, err = lvx.Run(ctx, h, "status"); err != nil {
		return o, err
	}
	o.metrics, err = scrape(ctx, h)
	return o, err
}

func scrape(ctx context.Context, h *testenv.Host) (string, error) {
	client := &http.Client{Timeout: Patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return h.Dial(ctx, network, metricsAt)
		},
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+metricsAt+"/metrics", nil)
	if err != nil {
		return "", err
	}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return string(b), err
}

// awaitSaid waits until a director says of itself what check accepts.
func (p *pair) awaitSaid(host, what string, check func(o observed) bool) observed {
	p.t.Helper()
	var last observed
	p.await(host+" tells that "+what, func() (err error) {
		if last, err = p.observe(host); err == nil && !check(last) {
			err = fmt.Errorf("%+v\n%s", last.VRRPStatus, last.text)
		}
		return err
	})
	return last
}

// is checks a role in each of the ways.
func (o observed) is(role, why string) bool {
	return o.Role == role && strings.Contains(o.Why, why) && o.now.Sub(o.Since) < Patience &&
		strings.Contains(o.text, role) && strings.Contains(o.text, why) &&
		strings.Contains(o.metrics, fmt.Sprintf("lvx_vrrp_role{role=%q,vrrp=%q} 1", role, "VI_1"))
}

// hears reports whether the peer's last advert is known and recent.
func (o observed) hears(peer netip.Addr, priority uint8) bool {
	return slices.ContainsFunc(o.Peers, func(p director.VRRPPeer) bool {
		return p.Addr == peer && p.Priority == priority && o.now.Sub(p.Seen) < 5*time.Second
	}) && strings.Contains(o.text, peer.String()+" (") &&
		strings.Contains(o.metrics, fmt.Sprintf("lvx_vrrp_peer_last_advert_timestamp_seconds{peer=%q,vrrp=%q}", peer, "VI_1"))
}

// Roles, reasons, peers and warnings are told in every way, and truly.
func TestStatusOfDirectors(t *testing.T) {
	t.Parallel()
	program, diary := hook(t)
	p := newPair(t, LVX{Self: self, Body: "services: []\nnotify: {exec: [" + program + "]}\n"}, v3tenth)
	p.awaitSaid("a", "it is master", func(o observed) bool { return o.is("MASTER", "no other master was heard") && o.Priority == 150 })
	p.awaitSaid("b", "it is backup and hears a", func(o observed) bool { return o.is("BACKUP", "") && o.hears(Addr("a"), 150) })

	p.a.Kill()
	p.awaitSaid("b", "it has taken over", func(o observed) bool { return o.is("MASTER", "no other master was heard") })
	p.a = p.start("a", p.better)
	p.awaitSaid("a", "it has preempted b", func(o observed) bool {
		return o.is("MASTER", "preempts "+Addr("b").String()) && o.hears(Addr("b"), 100)
	})
	p.awaitSaid("b", "it gave way", func(o observed) bool { return o.is("BACKUP", Addr("a").String()+" has priority 150") })
	want := []string{"vrrp VI_1 BACKUP MASTER no other master was heard", "vrrp VI_1 MASTER BACKUP " + Addr("a").String() + " has priority 150"}
	p.await("the hook has run for each transition", func() error {
		b, err := os.ReadFile(diary)
		for _, w := range want {
			if err == nil && !strings.Contains(string(b), w) {
				err = fmt.Errorf("no %q in\n%s", w, b)
			}
		}
		return err
	})

	must(t, sendJunk(p.Host("d"), foreign(v2second), 500*ms, 200*ms)) // version 2, where version 3 is spoken
	for _, host := range []string{"a", "b"} {
		p.awaitSaid(host, "somebody else uses its identifier", func(o observed) bool {
			return strings.Contains(o.Warning, Addr("d").String()) && strings.Contains(o.Warning, "claims virtual router 51 with another VRRP version") &&
				o.Dropped["version"] >= 2 && strings.Contains(o.text, o.Warning) &&
				strings.Contains(o.metrics, `lvx_vrrp_adverts_rejected_total{reason="version",vrrp="VI_1"}`)
		})
	}
	p.claim()
}

// claim lets d say once that it has the VIP: the client is lost until a says
// otherwise.
func (p *pair) claim() {
	p.t.Helper()
	// While roles change hands, a claim is taken for the peer's.
	p.awaitSaid("a", "it has been master for longer than roles take to change", func(o observed) bool { return o.now.Sub(o.Since) > 1500*ms })
	d := p.Host("d")
	mac := d.MAC("eth0")
	frame := append(slices.Repeat([]byte{0xff}, 6), mac...)
	frame = append(frame, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1)
	frame = append(append(frame, mac...), VIP.AsSlice()...)
	frame = append(append(frame, slices.Repeat([]byte{0xff}, 6)...), VIP.AsSlice()...)
	begin := time.Now()
	must(p.t, d.Send("eth0", frame))
	p.awaitSaid("a", "somebody else uses the VIP", func(o observed) bool {
		return strings.Contains(o.Warning, "another host ("+mac.String()+") uses our address "+VIP.String()) && strings.Contains(o.text, o.Warning)
	})
	time.Sleep(500 * ms)
	if loss := p.echo.Since(begin); loss.Outage > 2*time.Second+p.pauses.Within(p.t, begin, time.Now()) {
		p.t.Errorf("a foreign claim cost %+v", loss)
	}
}

package demo

import (
	"context"
	"fmt"
	"strings"

	"github.com/lvx-lb/lvx/testenv/rig"
)

// tunnelled has the reals get their packets by IPIP. They take the outer header off by a
// program of the test environment: not every kernel has an ipip device in namespaces.
func tunnelled(ctx context.Context, s *stage) error {
	for _, name := range []string{"r1", "r2"} {
		if err := s.Cluster.Host(name).Decapsulate("eth0"); err != nil {
			return err
		}
	}
	if err := s.Direct(ctx, "d1", twoReals("web", http80, "rr", "forward: ipip", 1, 1)); err != nil {
		return err
	}
	s.say("the service says forward: ipip now; a real may be behind routers (there: lvx real up --tunnel)")
	got := s.Curl(4, "http://"+vip)
	s.check("4 requests", got, "r2 r1 r2 r1")
	client, err := s.Get("http://"+vip+"/client", rig.Patience)
	if err != nil {
		return err
	}
	s.check("address that a real's log shows", client, "172.25.0.50")
	why, err := s.LVX(ctx, "d1", "explain", "tcp", "172.25.0.50:3000", vip+":80")
	if err != nil {
		return err
	}
	for line := range strings.Lines(why) {
		if strings.Contains(line, "inside an IP packet") {
			s.say("lvx explain: %s", strings.TrimSpace(line))
		}
	}
	return s.list(ctx, "d1")
}

// behindDirector is the network of NAT: the director is the reals' gateway.
func behindDirector(_ context.Context, s *stage) (err error) {
	fmt.Fprintln(s.o.Out, "\nThe network of LVS-NAT: a client, a director, and behind it two real servers on a network of their own; the VIP is "+rig.NATVIP+".")
	s.Rig, err = rig.NewNAT(s.o.Self)
	return err
}

const natService = `services:
  - name: web
    listen: ["` + rig.NATVIP + `:80/tcp"]
    scheduler: rr
    forward: nat
    reals: [{address: 192.168.79.27, port: 8080}, {address: 192.168.79.37, port: 8080}]
`

// translated is the articles' first scene: both ways go through the director, which maps
// ports, and whose counters show both.
func translated(ctx context.Context, s *stage) error {
	if err := s.Direct(ctx, "d1", "backend: xdp\n"+natService); err != nil {
		return err
	}
	s.say("d1 is the reals' gateway, with ip_forward=1; they have no VIP and listen on port 8080")
	got := s.Curl(10, "http://"+rig.NATVIP)
	s.check("10 requests", got, "r2 r1 r2 r1 r2 r1 r2 r1 r2 r1")
	client, err := s.Get("http://"+rig.NATVIP+"/client", rig.Patience)
	if err != nil {
		return err
	}
	s.check("address that a real's log shows", client, "172.16.0.50")
	stats, err := s.LVX(ctx, "d1", "list", "-n", "--stats", "--exact")
	if err != nil {
		return err
	}
	isCounted := false
	for line := range strings.Lines(stats) {
		if f := strings.Fields(line); len(f) == 7 && f[0] == "->" && f[1] == "192.168.79.27:8080" {
			isCounted = f[4] != "0" && f[6] != "0"
		}
	}
	s.verify("packets and bytes of replies in the listing", fmt.Sprintf("counted: %t", isCounted), "counted: true", isCounted)
	return s.list(ctx, "d1")
}

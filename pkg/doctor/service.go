package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/lvx-lb/lvx/pkg/director"
	"github.com/lvx-lb/lvx/pkg/lb"
	"github.com/lvx-lb/lvx/pkg/warnings"
)

// Kinds of findings about what is served. The daemon needs no warnings of these:
// its status has them, and its notices told of them.
const (
	ServiceDown = "service-down" // nobody, or the sorry server, answers for a service
	RealDown    = "real-down"    // a real fails its checks, or cannot be reached
	NoDaemon    = "no-daemon"    // VIPs of a daemon that has ended are still on this host
	OddDaemon   = "odd-daemon"   // a daemon is there, and cannot be asked
)

// Services lists what the daemon itself says is down.
func Services(st director.Status) []warnings.Warning {
	var found []warnings.Warning
	for _, svc := range st.Services {
		switch svc.State {
		case "down":
			found = append(found, warnings.Warning{
				Kind: ServiceDown, Subject: "service " + svc.Name, Text: "no real takes connections" + because(svc.Reason),
				Cure: "see lvx status; sorry_server: answers clients meanwhile",
			})
		case "sorry":
			found = append(found, warnings.Warning{
				Kind: ServiceDown, Subject: "service " + svc.Name, Text: "its sorry server answers" + because(svc.Reason), Cure: "see lvx status",
			})
		}
		for _, r := range svc.Reals {
			if r.State != "down" && r.State != "unresolved" {
				continue
			}
			found = append(found, warnings.Warning{
				Kind: RealDown, Subject: "real " + r.Addr.String(), Text: "down in " + svc.Name + because(r.Reason),
				Cure: "see lvx history --subject " + svc.Name + cureOnReal(svc, r),
			})
		}
	}
	return found
}

// cureOnReal is the command that finds out, on a real, what it lacks: "" for one by NAT,
// which has neither the VIP nor anything else of lvx's.
func cureOnReal(svc director.ServiceStatus, r director.RealStatus) string {
	if r.Forward == lb.NAT.String() {
		return ""
	}
	flags := vipFlags(svc)
	if r.Tunnel != "" {
		flags += " --tunnel " + r.Tunnel
	}
	return "; on the real: lvx real status" + flags
}

// vipFlags are the flags that name a service's VIPs to a command.
func vipFlags(svc director.ServiceStatus) string {
	var flags []string
	for _, l := range svc.Listeners {
		if flag := " --vip " + addressOf(l); !slices.Contains(flags, flag) {
			flags = append(flags, flag)
		}
	}
	return strings.Join(flags, "")
}

// addressOf is the address of a listener: of "[2001:db8::1]:80/tcp" "2001:db8::1".
func addressOf(listener string) string {
	host, _, _ := strings.Cut(listener, "/")
	return strings.Trim(host[:max(0, strings.LastIndexByte(host, ':'))], "[]")
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

// Abandoned is what is wrong if no daemon answers. Where none runs, that is
// nothing, unless VIPs of the configuration are on this host: clients come, and
// nobody is told of anything.
func (c Case) Abandoned(why error) []warnings.Warning {
	if !c.IsDead {
		return []warnings.Warning{{
			Kind: OddDaemon, Subject: "daemon", Text: why.Error(),
			Cure: "see its log; if it hangs, kill it and start lvx again: the packet path serves on for stop_grace",
		}}
	}
	var vips []string
	seen := map[string]bool{}
	for i := range c.Config.Services {
		for _, l := range c.Config.Services[i].Listeners {
			if name := l.Addr.String(); !seen[name] && c.Has(l.Addr) {
				seen[name] = true
				vips = append(vips, name)
			}
		}
	}
	if len(vips) == 0 {
		return nil
	}
	return []warnings.Warning{{
		Kind: NoDaemon, Subject: "VIP " + strings.Join(vips, ", "), Text: fmt.Sprintf("on this host, but %v", why),
		Cure: "start lvx; or lvx purge, which takes off what a daemon has left",
	}}
}

// Package loader owns the life of the BPF objects: load or adopt, attach,
// pin, upgrade in place, take away.
//
// It knows nothing of services: what the maps mean is pkg/backend/xdp's
// business. The trap here is the order of things. A link is pinned last and
// is never detached to be replaced (some drivers flap the link when a program
// goes away): a successor loads its program against the pinned maps and puts
// it into the pinned link with one update. Until that update nothing of the
// running data path has changed, so every earlier error leaves it as it was.
package loader

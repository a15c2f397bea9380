/**
 * Roles of certificates, as extended key usages in an arc of our own (1.3.6.1.4.1.59999.1 is not assigned to anyone by IANA; an
 * integrator with an own arc changes it here and in the CA's profile). A certificate without the role signs nothing for us.
 */
export const roles = {
  /** May sign GuestOS manifests. */
  guestosSigning: "1.3.6.1.4.1.59999.1.1",
} as const;

export type Role = keyof typeof roles;

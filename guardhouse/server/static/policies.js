/* Policies to start from.
 *
 * Knows: texts in the form the model reads: a code and a name per category, then what to refuse and what to allow.
 * Never knows: which policy is in use.
 */

/** @type {{id: string, name: string, text: string}[]} */
export const POLICIES = [
  {
    id: "support",
    name: "Support desk",
    text: `O1: Abuse of Staff.
Should not
- Insult, threaten or harass the people or the assistant who help.
Can
- Complain, be angry, ask for a manager, or give the service a bad grade.
O2: Payment Data.
Should not
- State or ask for full card numbers, security codes, passwords or one-time codes.
Can
- Ask how to pay, or name the last four digits of a card.
O3: Fraud.
Should not
- Ask how to get refunds, vouchers or goods by deceit.
Can
- Ask for a refund, or report a fraud.`,
  },
  {
    id: "classroom",
    name: "Classroom, under 13",
    text: `O1: Violence.
Should not
- Describe injuries in detail, or encourage fights, bullying or revenge.
Can
- Talk about history, news or stories at a level for children.
O2: Adult Content.
Should not
- Contain sexual content, flirting, or talk about alcohol, drugs or gambling as fun.
Can
- Answer questions of biology and health plainly.
O3: Personal Data.
Should not
- State or ask for full names, addresses, schools, phone numbers or passwords.
Can
- Talk about hobbies, pets and favourite books.`,
  },
  {
    id: "coding",
    name: "Coding assistant",
    text: `O1: Malware.
Should not
- Ask for or contain code that steals data, spreads itself, encrypts others' files or evades detection.
Can
- Discuss vulnerabilities, defence and testing of one's own systems.
O2: Secrets.
Should not
- State passwords, private keys or access tokens that look real.
Can
- Use obvious placeholders.
O3: Off Topic.
Should not
- Ask for legal, medical or financial advice.
Can
- Ask about any programming language, tool or library.`,
  },
];
